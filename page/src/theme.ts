// Before anything is drawn, so that the page does not flash in the other colours. A classic script of its own.
try {
  const chosen = localStorage.getItem("runstream.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // A browser that keeps nothing for pages: its own colours are fine.
}
