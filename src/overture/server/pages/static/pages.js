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

  // A form that is posted while its text is edited, where its switch is on.
  let timer;
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form[data-live]");
    const isText = event.target.matches("textarea");
    if (!form || !isText || !form.querySelector("[data-live-switch]:checked")) return;
    clearTimeout(timer);
    timer = setTimeout(() => { if (form.isConnected && event.target.value.trim()) form.requestSubmit(); }, 350);
  });

  // What works only with a script is shown only where one runs.
  const show = (root) => root.querySelectorAll("button[data-copy], .needs-script").forEach((item) => { item.hidden = false; });
  document.addEventListener("DOMContentLoaded", () => show(document));
  document.addEventListener("htmx:after:swap", () => {
    show(document);
    // Other prompts were chosen for a text that is there already.
    const form = document.querySelector("form[data-ask]");
    if (!form) return;
    form.removeAttribute("data-ask");
    form.requestSubmit();
  });
})();
