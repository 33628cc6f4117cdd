// The calculator of docs/benchmarks.md; tests/scale/test_costs.py holds the figures of both networks against their plans.
const presets = {
  mnist: { provider: 14040, online: 6698.5, asked: 3390, cores: 1254 },
  lenet: { provider: 337880, online: 82138.5, asked: 3390, cores: 17374 },
};
const field = (name) => document.getElementById(name);
const value = (name) => Number(field(name).value);
const number = (amount, digits) =>
  amount.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

function compute() {
  const millions = value("predictions") / 1e6;
  const gigabytes = (millions * (value("provider") + 2 * value("online") + value("asked"))) / 1000;
  const hours = (millions * value("cores")) / 3600;
  field("traffic").value = number(gigabytes, 1);
  field("hours").value = number(hours, 2);
  field("price").value = number(hours * value("hour") + gigabytes * value("gigabyte"), 2);
}

function choose() {
  const figures = presets[field("preset").value] ?? {};
  for (const [name, figure] of Object.entries(figures)) field(name).value = figure;
  compute();
}

field("calculator").addEventListener("submit", (event) => event.preventDefault());
field("calculator").addEventListener("input", (event) => {
  if (event.target.id in presets.mnist) field("preset").value = "";
  compute();
});
field("preset").addEventListener("change", choose);
choose();
