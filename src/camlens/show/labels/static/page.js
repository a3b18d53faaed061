"use strict";
/* What a person says of each picture, kept by the browser for these images and labels. */
const KEY = `camlens labels ${document.body.dataset.identity}`;
const articles = [...document.querySelectorAll("article")];
let decided = {}; // class by index of the image

try {
  decided = JSON.parse(localStorage.getItem(KEY)) ?? {};
} catch {
  // a private window
}

function show(article) {
  const { index, label, suggested } = article.dataset, said = decided[index] ?? "";
  article.querySelector("select").value = said;
  const after = article.querySelector(".suggested");
  after.hidden = !said;
  const agreed = said === label ? "the label stays" : `the label was ${label}`;
  after.textContent = `${agreed}; the network would say ${suggested}`;
}

function count() {
  const changed = articles.filter(({ dataset }) => decided[dataset.index] && decided[dataset.index] !== dataset.label);
  const all = Object.keys(decided).length;
  document.getElementById("decided").textContent = all ? `${all} decided, ${changed.length} of them changed` : "none decided";
}

for (const article of articles) {
  article.querySelector("select").addEventListener("change", (event) => {
    const { index } = article.dataset;
    if (event.target.value) decided[index] = event.target.value;
    else delete decided[index];
    try {
      localStorage.setItem(KEY, JSON.stringify(decided));
    } catch {
      // a private window: it lasts as long as the page
    }
    show(article);
    count();
  });
  show(article);
}
count();

const quote = (text) => (/[",\r\n]/.test(text) ? `"${String(text).replaceAll('"', '""')}"` : String(text));

document.getElementById("export").addEventListener("click", () => {
  const rows = articles.filter(({ dataset }) => decided[dataset.index])
    .map(({ dataset }) => [dataset.index, dataset.file, decided[dataset.index], dataset.suggested]);
  const lines = [["index", "path", "label", "suggested"], ...rows].map((row) => row.map(quote).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
  URL.revokeObjectURL(link.href);
});
