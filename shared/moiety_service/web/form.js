// The form of a model that takes rows of a table: a field for each column, as the model's owner declares it.

import { element } from "./view.js";

const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 6 });

/** What a column takes, in words: "18 to 120 years", "may be left empty". */
function said(column) {
  const unit = column.unit ? ` ${column.unit}` : "";
  const range = column.low === null ? column.unit : `${number(column.low)} to ${number(column.high)}${unit}`;
  const clipped = column.low !== null && !column.refuses ? "values beyond count as the nearer end" : "";
  return [column.description, range, clipped, column.may_be_missing ? "may be left empty" : ""].filter(Boolean).join(" · ");
}

function choices(column, id, note) {
  const first = element("option", { value: "", text: column.may_be_missing ? "missing" : "choose one" });
  if (!column.may_be_missing) first.disabled = true;
  const options = column.categories.map((category, at) => element("option", { value: String(at), text: String(category) }));
  const select = element("select", { id, "aria-describedby": note }, first, ...options);
  first.selected = true;
  select.required = !column.may_be_missing;
  return select;
}

function entry(column, id, note) {
  const input = element("input", { id, type: "number", step: "any", "aria-describedby": note });
  if (column.low !== null && column.refuses) [input.min, input.max] = [column.low, column.high];
  input.required = !column.may_be_missing;
  return input;
}

/** A value in the middle of what a column takes. */
function example(column) {
  if (column.categories.length) return "0";
  if (column.low === null) return column.may_be_missing ? "" : "0";
  const middle = Number(((column.low + column.high) / 2).toPrecision(3));
  return String(middle > column.low && middle < column.high ? middle : (column.low + column.high) / 2);
}

export class Form {
  #form;
  #fields;
  #columns = [];

  /** `form` is a form element, and `fields` the element in it that holds the fields. */
  constructor(form, fields, onask) {
    this.#form = form;
    this.#fields = fields;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      onask(this.row());
    });
  }

  show(columns) {
    this.#columns = columns;
    this.#fields.replaceChildren(
      ...columns.map((column, at) => {
        const [id, note] = [`column-${at}`, `column-${at}-note`];
        const field = column.categories.length ? choices(column, id, note) : entry(column, id, note);
        const label = element("label", { for: id, text: column.name });
        return element("div", { className: "field" }, label, field, element("p", { id: note, className: "fine", text: said(column) }));
      }),
    );
  }

  fill() {
    this.#columns.forEach((column, at) => {
      this.#field(at).value = example(column);
    });
  }

  clear() {
    this.#form.reset();
  }

  /** The row: a number, a category or null for each column, by name. */
  row() {
    const pairs = this.#columns.map((column, at) => {
      const { value } = this.#field(at);
      if (value === "") return [column.name, null];
      return [column.name, column.categories.length ? column.categories[Number(value)] : Number(value)];
    });
    return Object.fromEntries(pairs);
  }

  #field(at) {
    return this.#fields.querySelector(`#column-${at}`);
  }
}
