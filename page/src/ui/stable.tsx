import { Component, h, type ComponentType, type VNode } from "preact";

/** A component that is drawn again only when its properties are not the same any more. */
export function stable<P extends object>(
  draw: (properties: P) => VNode | null,
  same: (before: P, now: P) => boolean,
): ComponentType<P> {
  return class extends Component<P> {
    override shouldComponentUpdate(now: P): boolean {
      return !same(this.props as P, now);
    }

    override render(): VNode {
      return h(draw as ComponentType<any>, this.props as any);
    }
  };
}
