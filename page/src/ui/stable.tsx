import { Component, h, type ComponentType, type VNode } from "preact";

/**
 * A component that is drawn again only when its properties are not the same any more. Where something in it cannot be
 * drawn, it says so, and the rest of the page goes on.
 */
export function stable<P extends object>(
  draw: (properties: P) => VNode | null,
  same: (before: P, now: P) => boolean,
): ComponentType<P> {
  return class extends Component<P> {
    override shouldComponentUpdate(now: P): boolean {
      return !same(this.props as P, now);
    }

    private failed = false;

    override componentDidCatch(error: unknown): void {
      console.error(error);
      this.failed = true;
      this.forceUpdate();
    }

    override render(): VNode {
      if (this.failed) return <p class="note">This cannot be shown.</p>;
      return h(draw as ComponentType<any>, this.props as any);
    }
  };
}
