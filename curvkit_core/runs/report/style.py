"""The page's style: light and dark, narrow and wide, and on paper."""

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;--fg:#1c1e21;--soft:#5b6168;--bg:#fff;--card:#f6f7f9;--rule:#dfe2e6;--grid:#e9ebee;
--a:#1f5fa8;--b:#c2560f;--c:#5b6168;--heat:31,95,168}
@media(prefers-color-scheme:dark){:root{--fg:#e7e9ec;--soft:#a2a9b2;--bg:#15171a;--card:#1f2226;--rule:#363b41;
--grid:#2a2e33;--a:#7db4f5;--b:#f39a5b;--c:#a2a9b2;--heat:125,180,245}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
main{max-width:62rem;margin:0 auto;padding:1.25rem 1rem 4rem}
h1{font-size:1.55rem;line-height:1.25;margin:.2rem 0 .3rem}
h2{font-size:1.15rem;margin:2.6rem 0 .7rem;padding-top:.7rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.5rem 0 .5rem}
p{margin:.4rem 0}
.lead,.note{color:var(--soft)}
.note{font-size:.85rem}
nav{font-size:.9rem;margin:.8rem 0}
nav a{margin-right:.9rem;white-space:nowrap}
a{color:var(--a)}
.warn{border-left:4px solid var(--b);padding:.5rem .8rem;background:var(--card)}
.cards{display:grid;gap:.75rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,17rem),1fr))}
.card{background:var(--card);border-radius:.5rem;padding:.75rem .9rem}
.card .what{font-size:.85rem;color:var(--soft)}
.card .value{font-size:1.35rem;font-variant-numeric:tabular-nums;line-height:1.3}
.card .meaning{font-size:.82rem;color:var(--soft)}
.figures{display:grid;gap:1.2rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr))}
figure{margin:0;min-width:0}
figure.wide{grid-column:1/-1}
figcaption{font-size:.88rem;font-weight:600;margin-bottom:.15rem}
svg{display:block;width:100%;max-width:30rem;height:auto}
svg text{font-size:11px;fill:var(--soft);font-variant-numeric:tabular-nums}
svg .label{fill:var(--fg)}
.grid{stroke:var(--grid);stroke-width:1}
.axis{fill:none;stroke:var(--soft);stroke-width:1}
.a{--k:var(--a)}.b{--k:var(--b)}.c{--k:var(--c)}
path.line,path.dashes{fill:none;stroke:var(--k);stroke-width:1.6;stroke-linejoin:round}
path.dashes{stroke-dasharray:5 4}
path.band{fill:var(--k);fill-opacity:.2}
circle.points{fill:var(--k)}
circle.open{fill:var(--bg);stroke:var(--k);stroke-width:1.5}
rect.bar{fill:var(--k);fill-opacity:.35}
.legend{font-size:.78rem;color:var(--soft)}
.key{margin-right:.9rem;display:inline-block}
.key::before{content:"";display:inline-block;width:1.1em;height:.65em;margin-right:.35em;background:var(--k);opacity:.85}
.key.line::before,.key.stems::before{height:.18em;vertical-align:.25em}
.key.dashes::before{height:0;border-top:.15em dashed var(--k);background:none;vertical-align:.25em}
.key.band::before{opacity:.3}
.key.points::before,.key.open::before{width:.6em;height:.6em;border-radius:50%}
.key.open::before{background:none;border:.12em solid var(--k)}
.scroll{overflow-x:auto;background:linear-gradient(to right,var(--bg) 30%,transparent) 0 0/3rem 100% no-repeat local,
linear-gradient(to left,var(--bg) 30%,transparent) 100% 0/3rem 100% no-repeat local,
linear-gradient(to right,var(--rule),transparent) 0 0/.7rem 100% no-repeat,
linear-gradient(to left,var(--rule),transparent) 100% 0/.7rem 100% no-repeat}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums;margin:.3rem 0}
th,td{padding:.22rem .55rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--grid)}
th:first-child,td:first-child{text-align:left}
thead th{color:var(--soft);font-weight:600;border-bottom:1px solid var(--rule)}
.heat td,.heat th{border:0;padding:.15rem .3rem;font-size:.76rem}
.heat td:not(:first-child){min-width:3.1rem}
.heat tbody td{background:rgba(var(--heat),var(--s));text-align:center;border:1px solid var(--bg)}
.heat tbody td.dark{color:var(--bg)}
.heat thead th{text-align:center}
@media(max-width:600px){.long{white-space:normal;min-width:7.5rem}}
pre{background:var(--card);padding:.75rem;border-radius:.4rem;overflow-x:auto;font-size:.8rem;line-height:1.4}
code{font-size:.9em}
details{margin:.6rem 0}summary{cursor:pointer}
@media print{:root{--fg:#000;--soft:#444;--bg:#fff;--card:#fff;--rule:#bbb;--grid:#ddd;--a:#1f5fa8;--b:#c2560f;--c:#555;
--heat:31,95,168}nav{display:none}main{max-width:none;padding:0}h2{break-after:avoid}
figure,.card,tr{break-inside:avoid}.card{border:1px solid var(--rule)}.scroll,pre{overflow:visible;white-space:pre-wrap}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
