// What the vectors' tests take of Node.js, for a page of a browser: its import map names this file in place of each module.

const tests = [];

export function describe(name, define) {
  define(name);
}

export function test(name, run) {
  tests.push([name, run]);
}

/** Runs all tests, one after the other. Returns how many there were, and what failed. */
export async function results() {
  const failed = [];
  for (const [name, run] of tests) {
    try {
      await run();
    } catch (error) {
      failed.push(`${name}: ${error}`);
    }
  }
  return { count: tests.length, failed };
}

/** The text of a file, as a module may ask for it at its top. */
export function readFileSync(url) {
  const asked = new XMLHttpRequest();
  asked.open("GET", url, false);
  asked.send();
  return asked.responseText;
}

function same(one, other) {
  if (Object.is(one, other)) return true;
  if (typeof one !== "object" || typeof other !== "object" || !one || !other) return false;
  const [names, others] = [Object.keys(one), Object.keys(other)];
  return names.length === others.length && names.every((name) => same(one[name], other[name]));
}

function fits(error, expected) {
  if (expected === undefined) return true;
  if (typeof expected !== "function") return Object.keys(expected).every((name) => same(error[name], expected[name]));
  return expected.prototype instanceof Error || expected === Error ? error instanceof expected : expected(error) === true;
}

async function refused(outcome, expected) {
  const error = await outcome.then(
    () => null,
    (reason) => reason,
  );
  if (error === null || !fits(error, expected)) throw new Error(`not refused so, but ${error}`);
}

function check(holds, what) {
  if (!holds) throw new Error(what ?? "does not hold");
}

export default {
  ok: check,
  equal: (one, other) => check(Object.is(one, other), `${one} is not ${other}`),
  notEqual: (one, other) => check(!Object.is(one, other), `both are ${one}`),
  deepEqual: (one, other) => check(same(one, other), `${JSON.stringify(one)} is not ${JSON.stringify(other)}`),
  rejects: refused,
  throws(run, expected) {
    try {
      run();
    } catch (error) {
      return check(fits(error, expected), `another error: ${error}`);
    }
    return check(false, "nothing was thrown");
  },
};
