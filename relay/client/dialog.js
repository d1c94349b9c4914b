// A question in front of the page: yes by its form, no by anything else.

/** What of it was pressed: the button's value, or true. @param {HTMLDialogElement} dialog
 *  @returns {Promise<string | boolean>} */
export function ask(dialog) {
  const form = dialog.querySelector("form");
  return new Promise((resolve) => {
    let yes = false;
    form.onsubmit = (event) => {
      event.preventDefault();
      yes = event.submitter?.value || true;
      dialog.close();
    };
    dialog.querySelector("[data-close]").onclick = () => dialog.close();
    dialog.onclose = () => resolve(yes);
    dialog.showModal();
    dialog.querySelector("input")?.select();
  });
}
