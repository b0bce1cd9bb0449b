// The sidebar shows the present page.
document.addEventListener("DOMContentLoaded", () => {
  const [box, here] = [".sidebar-scroll", ".sidebar-tree .current-page"].map((name) => document.querySelector(name));
  const top = (element) => element.getBoundingClientRect().top;
  if (box && here) box.scrollTop += top(here) - top(box) - box.clientHeight / 2;
});
