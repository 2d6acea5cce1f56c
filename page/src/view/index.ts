export * from "./entries";
export { eventOf } from "./event";
export { HEAD, RunView, type Figures } from "./run";
