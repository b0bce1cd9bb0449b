// Ranks the results of the search: by how much a section is about the words. docs/_ext/searching.py writes WEIGHTS.
var Scorer = {
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,

  score: (result) => {
    const [page, title, , description, score, , kind] = result;
    const query = new URLSearchParams(window.location.search).get("q").trim();
    const prior = page.startsWith("reference/c/") ? -60 : 0;
    if (kind === "title") return score * 4;
    if (kind === "object") {
      const [name, asked] = [title.toLowerCase(), query.toLowerCase().replace(/\(\)$/, "")];
      if (result[2] === "#" + title) result[2] = "#llama_cffi." + title; // its name is shorter than its anchor
      if (name === asked) return 90;
      const isName = /[a-z][A-Z]|_/.test(query); // a word of English may be a name by chance
      return (name.endsWith("." + asked) ? (isName ? 80 : 40) : 20) + (description.includes("class") ? 6 : 0) + prior / 2;
    }
    if (kind !== "text" || !(page in WEIGHTS.pages)) return score + prior;
    const [first, count, preference] = WEIGHTS.pages[page];
    const sums = new Array(count).fill(0);
    let most = 0;
    for (const word of Search._parseQuery(query)[1]) {
      const [rarity, ...found] = Object.hasOwn(WEIGHTS.terms, word) ? WEIGHTS.terms[word] : [20];
      most += rarity;
      for (let i = 0; i < found.length; i += 2)
        if (found[i] >= first && found[i] < first + count) sums[found[i] - first] += (rarity * found[i + 1]) / 100;
    }
    const sum = Math.max(...sums);
    const section = sums.indexOf(Math.max(...sums.slice(1)), 1); // the first sum is that of the whole page
    if (section > 0 && sums[section] > (page.startsWith("reference/") ? 1.05 : 0.75) * sums[0]) {
      const [heading, anchor] = WEIGHTS.sections[first + section];
      [result[1], result[2]] = [heading, "#" + anchor];
    }
    return most ? (60 * sum) / most + preference : score;
  },
};
