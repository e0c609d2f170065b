// Checks the pure functions of the pages' scripts, in a browser that shows any page of kiln. The
// body of a function for WebDriver's "execute script"; it gives the list of what does not hold.
return (async () => {
  const base = document.querySelector("script[type=module]").src.replace(/[^/]+$/, "");
  const load = (name) => import(base + name);
  const [ansi, scroll, lines, row, view, time, timeline, palette, filter, graph, morph] = await Promise.all(
    ["ansi.js", "log-scroll.js", "log-lines.js", "log-row.js", "log-view.js", "time.js", "timeline.js", "palette.js", "filter.js",
      "graph.js", "morph.js"].map(load));
  const wrong = [];
  const same = (what, is, should) => {
    const [a, b] = [JSON.stringify(is), JSON.stringify(should)];
    if (a !== b) wrong.push(`${what}: ${a}, not ${b}`);
  };

  // ---- Terminal text. The same lines as in `web/log.rs`, where there are no colours. ----
  const text = (line) => ansi.parseLine(line).pieces.map((piece) => piece.text).join("");
  for (const [line, shown] of [
    ["plain\ttext", "plain\ttext"],
    ["\x1b[1;31merror\x1b[0m: no", "error: no"],
    ["\x1b[38;2;1;2;3mx\x1b[m", "x"],
    ["\x1b]0;title\x07after", "after"],
    ["\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"],
    ["\x1b(Bset", "set"],
    [" 10%\r 50%\r100%", "100%"],
    ["dos\r", "dos"],
    ["a\x00c", "ac"],
    ["cut \x1b[31", "cut "],
    ["cut \x1b", "cut "],
    ["ab\x08c", "ac"],
    ["a\u202eb", "a\ufffdb"],
    ["\x1b[2K\x1b[1Gdone", "done"],
    ["", ""],
  ]) same(`text of ${JSON.stringify(line)}`, text(line), shown);
  const styles = (line) => ansi.parseLine(line).pieces.map(({ text: t, style }) => [t, style.fg, style.bg, style.bold]);
  same("16 colours", styles("\x1b[31ma\x1b[92;44mb\x1b[39;49mc"), [["a", 1, null, false], ["b", 10, 4, false], ["c", null, null, false]]);
  same("256 colours", styles("\x1b[1;38;5;208mx\x1b[22m\x1b[48:5:17my"), [["x", 208, null, true], ["y", 208, 17, false]]);
  same("true colour", styles("\x1b[38;2;1;2;3ma\x1b[38:2::4:5:6mb"), [["a", "rgb(1,2,3)", null, false], ["b", "rgb(4,5,6)", null, false]]);
  same("a colour that is none", styles("\x1b[38;5;999;1mx"), [["x", null, null, true]]);
  same("a style goes on to the next line", ansi.parseLine("\x1b[32mx").style.fg, 2);
  same("a private sequence is no colour", styles("\x1b[?25lx"), [["x", null, null, false]]);
  same("the cube", [ansi.paletteColour(16), ansi.paletteColour(208), ansi.paletteColour(255)], ["rgb(0,0,0)", "rgb(255,135,0)", "rgb(238,238,238)"]);
  same("inverse", ansi.look({ ...ansi.PLAIN, inverse: true, fg: 1 }), { className: "a-g1", color: "var(--log-ground)", background: "" });

  // ---- Scroll map ----
  const full = 500_000_000;
  for (const top of [0, 1_999_999, 2_000_001, 250_000_000, full - 2_000_001, full - 700]) {
    const back = scroll.toContent(scroll.toBar(top, full), full);
    if (Math.abs(back - top) > 1e-3) wrong.push(`the map does not turn back: ${top} is ${back}`);
  }
  same("the end of the bar is the end", scroll.toContent(scroll.HEIGHT_MAX - 700, full), full - 700);
  same("a low log is not mapped", scroll.moved(100, 100, 5_000, 1_000_000, 700), 5_000);
  same("a wheel in the middle moves by its pixels", scroll.moved(250_000_000, 4_000_000, 4_000_100, full, 700), 250_000_100);
  same("a drag jumps", scroll.moved(0, 0, 4_000_000, full, 700), 250_000_000);

  // ---- Lines ----
  const tail = new lines.TailLine(7);
  tail.add(new Uint8Array([0xe2, 0x82]));
  tail.add(new Uint8Array([0xac, 0xff]));
  same("a letter may come in two parts", tail.line(), { offset: 7, text: "€\ufffd" });
  const long = new lines.TailLine(0);
  for (let n = 0; n < 3; n += 1) long.add(new Uint8Array(5_000).fill(120));
  same("a long line is cut", [long.line().text.length, long.line().cut_from], [8_192, 15_000]);
  same("base64", [...lines.fromBase64("AP+A")], [0, 255, 128]);
  same("a hash is lines", [view.parseHash("#L10-L20"), view.parseHash("#L7"), view.parseHash("#L9-3"), view.parseHash("#L0"), view.parseHash("#x")],
    [{ from: 9, to: 19 }, { from: 6, to: 6 }, { from: 2, to: 8 }, null, null]);
  same("matches", row.splitMatches("An error, no ERROR", "error"), ["An ", "error", ", no ", "ERROR", ""]);

  // ---- Times ----
  same("durations", [38, 4_210, 59_960, 187_000, 7_500_000].map(time.showDuration), ["38ms", "4.2s", "1m 00s", "3m 07s", "2h 05m"]);
  same("ticking", [0, 900, 61_900].map(time.showTicking), ["0s", "0s", "1m 01s"]);
  same("ages", [0, 61_000, 7_200_000, 90_000_000, 4e9].map(time.showAgo), ["just now", "1 min ago", "2 h ago", "yesterday", null]);
  same("bars", timeline.barParts({ ready: 0, start: 500, end: null }, 0, 1_000), { waited: [0, 500], ran: [500, 500] });

  // ---- Lists ----
  const items = ["glaze", "glaze #12 fix", "test:15"].map((t) => ({ text: t, note: "" }));
  same("the palette finds by parts", palette.choose(items, "gl 12", 9).map((i) => i.text), ["glaze #12 fix"]);
  same("the palette gives the nearest first", palette.choose(items, "glaze", 1)[0].text, "glaze");
  const all = { text: "", states: new Set(), group: "" };
  same("a filter", [filter.matches({ name: "test:15", state: "failed" }, { ...all, text: "TEST 15" }),
    filter.matches({ name: "test:15", state: "failed" }, { ...all, states: new Set(["success"]) })], [true, false]);
  const near = graph.related([[0, 1], [0, 2], [1, 3], [2, 3]], 1);
  same("what is related", [[...near.before].sort(), [...near.after].sort()], [[0, 1], [1, 3]]);

  // ---- Changing a document in place ----
  const tree = (html) => {
    const box = document.createElement("div");
    box.innerHTML = html;
    return box;
  };
  for (const [before, after] of [
    ["<p>a</p>", "<p>b</p><p>c</p>"],
    ['<i data-key="1">1</i><i data-key="2">2</i><i data-key="3">3</i>', '<i data-key="3">3</i> <i data-key="1">x</i>'],
    ['<b>x</b><i data-key="1">1</i>t', 'u<i data-key="1" class="c">1</i><b>y</b>'],
    ['<i data-key="1">1</i><p>a</p>', '<p>a</p><i data-key="2">2</i>'],
    ["", "text<b></b>"],
    ["<ul><li>1</li></ul>", ""],
  ]) {
    const [from, to] = [tree(before), tree(after)];
    morph.morph(from, to);
    same(`${before} made into ${after}`, from.innerHTML, to.innerHTML);
  }
  const kept = tree('<x data-keep class="mine"><b>ours</b></x><i data-key="1"></i><i data-key="2"></i>');
  const second = kept.lastChild;
  morph.morph(kept, tree('<x data-keep src="s"></x><i data-key="2"></i><i data-key="1"></i>'));
  same("what a script owns stays", kept.firstChild.outerHTML, '<x data-keep="" class="mine" src="s"><b>ours</b></x>');
  same("a keyed element is moved, not made anew", kept.children[1] === second, true);
  return wrong;
})();
