// Runs before the page is drawn, so that it never flashes in the other colours; `studio.js` has the switch.
document.documentElement.dataset.theme = localStorage.getItem("luban.theme") ?? "";
