try{let t=localStorage.getItem("runstream.theme");(t==="light"||t==="dark")&&(document.documentElement.dataset.theme=t)}catch{}
