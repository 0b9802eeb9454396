// What pages do beyond links and forms. Everything here is an extra: without it the forms are posted as they stand.
(() => {
  "use strict";

  // A button that copies a text: the element that data-copy names, or what stands in front of it.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  // Copy buttons are shown only where they work.
  const show = (root) => root.querySelectorAll("button[data-copy][hidden]").forEach((button) => { button.hidden = false; });
  document.addEventListener("DOMContentLoaded", () => show(document));
  document.addEventListener("htmx:after:swap", () => show(document));
})();
