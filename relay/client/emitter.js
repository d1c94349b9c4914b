// Tells listeners what happens; the types say what is told.

/** @template {object} Events what is told, by name */
export class Emitter extends EventTarget {
  /**
   * Listen from now on; what comes back ends it. (`addEventListener` does as well: what is told is
   * the `detail` of its event.)
   * @template {keyof Events & string} Name
   * @param {Name} name
   * @param {(told: Events[Name]) => void} listener
   * @returns {() => void}
   */
  on(name, listener) {
    /** @param {any} event */
    const hear = (event) => listener(event.detail);
    this.addEventListener(name, hear);
    return () => this.removeEventListener(name, hear);
  }

  /**
   * @protected
   * @template {keyof Events & string} Name
   * @param {Name} name
   * @param {Events[Name]} [detail]
   */
  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
