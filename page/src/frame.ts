// Drawing, at most once a frame, however much comes.

let draw: () => void = () => {};
let planned = false;

export function drawBy(how: () => void): void {
  draw = how;
}

/** Something is to be drawn anew. */
export function changed(): void {
  if (planned) return;
  planned = true;
  const go = (): void => {
    planned = false;
    draw();
  };
  // Pages that nobody sees get no frames.
  if (document.hidden) setTimeout(go, 250);
  else requestAnimationFrame(go);
}
