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

  // A key that clicks its button.
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const button = document.querySelector(`button[data-key="${CSS.escape(event.key)}"]`);
    if (button) { event.preventDefault(); button.click(); }
  });

  // A file whose text goes into a field.
  document.addEventListener("change", async (event) => {
    const input = event.target.closest("input[type=file][data-into]");
    if (!input || !input.files.length) return;
    document.getElementById(input.dataset.into).value = await input.files[0].text();
    document.getElementById(input.dataset.name).value = input.files[0].name;
  });

  // Files of a prompt that are dropped or chosen: the same request as any program sends.
  const importPrompt = async (place, files) => {
    const status = place.querySelector("[role=status]");
    const named = (end) => files.find((file) => file.name.endsWith(end));
    const [card, values] = [named(".json"), named(".safetensors")];
    if (!card) { status.textContent = "There is no prompt.json among these files."; return; }
    status.textContent = "Reading ...";
    try {
      const manifest = JSON.parse(await card.text());
      const bytes = values ? new Uint8Array(await values.arrayBuffer()) : new Uint8Array();
      let text = "";
      for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
      const body = JSON.stringify({ manifest, tensors: btoa(text) });
      const headers = { "content-type": "application/json" };
      const reply = await fetch(`/v1/prompts/${encodeURIComponent(manifest.name)}`, { method: "PUT", headers, body });
      const said = await reply.json();
      if (reply.ok) location.assign(`/p/${said.prompt}`);
      else status.textContent = `It was not imported: ${said.error.message}`;
    } catch (error) {
      status.textContent = `It was not imported: ${error.message}`;
    }
  };
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      const place = event.target.closest?.("[data-import]");
      if (!place) return;
      event.preventDefault();
      place.classList.toggle("over", kind === "dragover");
      if (kind === "drop") importPrompt(place, [...event.dataTransfer.files]);
    });
  }
  document.addEventListener("change", (event) => {
    const place = event.target.closest("[data-import]");
    if (place) importPrompt(place, [...event.target.files]);
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
