import { render } from "preact";
import { Desk } from "./desk";
import { drawBy } from "./frame";
import { App } from "./ui/app";

const root = document.querySelector("#page")!;
const desk = new Desk();
const draw = (): void => render(<App desk={desk} />, root);
drawBy(draw);
draw();
void desk.start();
