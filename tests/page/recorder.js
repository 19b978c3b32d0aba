// Runs before everything else in each document: tells the test every figure that is shown, and every report of the CSP.
(() => {
  const say = (kind, told) => globalThis.tell(JSON.stringify({ kind, ...told }));
  addEventListener("securitypolicyviolation", (event) => say("csp", { directive: event.violatedDirective, uri: event.blockedURI, sample: event.sample }));
  addEventListener("unhandledrejection", (event) => say("rejection", { reason: String(event.reason) }));
  const FIGURE = /^([\d,]+) of ([\d,]+)/;
  const seen = new Map();
  const look = () => {
    for (const node of document.querySelectorAll("[data-batch][data-revision]")) {
      const text = (node.matches("tr") ? node.querySelector(".done") : document.querySelector(".heading .sub"))?.textContent ?? "";
      const found = FIGURE.exec(text);
      if (!found) continue;
      const processed = Number(found[1].replaceAll(",", ""));
      const { batch, revision, status } = node.dataset;
      const told = `${processed} ${revision} ${status}`;
      if (seen.get(batch) === told) continue;
      seen.set(batch, told);
      const total = Number(found[2].replaceAll(",", ""));
      const bar = Number(node.querySelector("[role=progressbar]")?.getAttribute("aria-valuenow"));
      say("figure", { batch, processed, total, bar, revision: Number(revision), status });
    }
  };
  new MutationObserver(look).observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
})();
