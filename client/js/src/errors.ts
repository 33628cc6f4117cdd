/** The errors that the client throws. Each message says what to do next, and holds no value of an input. */

import { INTERNAL, PROBLEMS } from "./registry.js";

/** The base of all errors of the client. */
export class MoietyError extends Error {
  override name = "MoietyError";
}

/** Where in the inputs a value is wrong. */
export interface Place {
  /** The places of all inputs that are wrong in the same way, from 0. */
  rows?: number[];
  /** The name of a table's column, or the place in the input. */
  column?: string | number | null;
  /** What is there. */
  value?: unknown;
  /** How far a number is out of the range: below it if negative, above it if positive. */
  beyond?: number | null;
}

/** The inputs do not fit the model. The client sent nothing. */
export class InvalidInput extends MoietyError {
  override name = "InvalidInput";
  readonly rows: number[];
  readonly column: string | number | null;
  readonly value: unknown;
  readonly beyond: number | null;

  constructor(message: string, place: Place = {}) {
    super(message);
    this.rows = place.rows ?? [];
    this.column = place.column ?? null;
    this.value = place.value ?? null;
    this.beyond = place.beyond ?? null;
  }

  /** The place of the first input that is wrong, or null. */
  get row(): number | null {
    return this.rows[0] ?? null;
  }
}

/** The access file, or the key in it, cannot be used. */
export class AccessFileError extends MoietyError {
  override name = "AccessFileError";
}

/** An address is on another machine and does not use TLS. */
export class InsecureAddress extends MoietyError {
  override name = "InsecureAddress";
}

/** The client could not read the owner's catalogue. */
export class CatalogueError extends MoietyError {
  override name = "CatalogueError";
}

/** The catalogue gives no answer now. It is safe to try again. */
export class CatalogueUnavailable extends CatalogueError {
  override name = "CatalogueUnavailable";
}

/** The catalogue has no such model. */
export class UnknownModel extends CatalogueError {
  override name = "UnknownModel";
}

/** The entry is not signed by the pinned owner key, not the one asked for, or older than one seen. */
export class UntrustedEntry extends CatalogueError {
  override name = "UntrustedEntry";
}

/** The catalogue entry has expired. */
export class ExpiredEntry extends UntrustedEntry {
  override name = "ExpiredEntry";
}

/** The answer does not belong to this request, or somebody changed it on the way. */
export class ResultRejected extends MoietyError {
  override name = "ResultRejected";
}

/** Inputs with known answers came back wrong. The client hands out no answer that came with them. */
export class CanaryFailed extends ResultRejected {
  override name = "CanaryFailed";
}

/** The client was told to ask verified models alone, and this one is not. The client sent nothing. */
export class NotVerified extends MoietyError {
  override name = "NotVerified";
}

/** The model gives out only which classes are likeliest. */
export class LabelsOnly extends MoietyError {
  override name = "LabelsOnly";
}

/** The model gives values and tells no classes apart. */
export class NoLabels extends MoietyError {
  override name = "NoLabels";
}

/** The model gives values, or scores that no function makes probabilities. */
export class NoProbabilities extends MoietyError {
  override name = "NoProbabilities";
}

/** A problem document (RFC 9457) of the registry. */
export class Problem extends Error {
  override name = "Problem";

  constructor(
    readonly type: string,
    readonly detail = "",
    /** The seconds after which to try again, or null where a repetition makes no sense. */
    readonly retryAfter: number | null = PROBLEMS[type]!.retryAfter ?? null,
  ) {
    const { title } = PROBLEMS[type]!;
    super(detail ? `${title}: ${detail}` : title);
  }

  get hint(): string {
    return PROBLEMS[this.type]!.hint;
  }

  /** Reads a document from a service. Anything that is not a problem document becomes INTERNAL. */
  static fromDocument(document: unknown): Problem {
    const members = (typeof document === "object" && document ? document : {}) as Record<string, unknown>;
    if (typeof members.type !== "string") return new Problem(INTERNAL, "the answer was not a problem document");
    const type = Object.hasOwn(PROBLEMS, members.type) ? members.type : INTERNAL;
    const { title } = PROBLEMS[type]!;
    const { detail, retry_after: seconds } = members;
    const told = Number.isInteger(seconds) && (seconds as number) >= 0 && (seconds as number) <= LONGEST_WAIT;
    const own = typeof detail === "string" && detail !== title ? detail : "";
    return new Problem(type, own, told ? (seconds as number) : undefined);
  }
}

const LONGEST_WAIT = 1e9;

/** An error that a problem document describes. `problem` holds the document. */
class FromProblem extends MoietyError {
  constructor(readonly problem: Problem) {
    super(`${problem.message}. ${problem.hint}`);
  }
}

/** The service gives no answer now. It is safe to try again. */
export class ServiceUnavailable extends FromProblem {
  override name = "ServiceUnavailable";
}

/** A party computed otherwise than the protocol says. There is no answer. */
export class CheatingDetected extends FromProblem {
  override name = "CheatingDetected";
}

/** A party refuses this request. `problem` says by which rule. */
export class RequestRefused extends FromProblem {
  override name = "RequestRefused";
}

/** The token is missing, revoked or expired, or does not allow this model. */
export class NotAllowed extends RequestRefused {
  override name = "NotAllowed";
}

/** A party refused a request for its time, and then a new request too. One of the two clocks is wrong. */
export class WrongClock extends RequestRefused {
  override name = "WrongClock";
}

/** The token's quota does not allow so many inputs now. */
export class QuotaExceeded extends RequestRefused {
  override name = "QuotaExceeded";

  /** The seconds until the quota has room again. */
  get retryAfter(): number {
    return this.problem.retryAfter ?? 0;
  }
}

const URN = "urn:moiety:error:";
export const CHEATING = `${URN}cheating-detected`;
export const EXPIRED = `${URN}request-expired`;
export const QUOTA = `${URN}quota-exceeded`;
export const NO_MODEL = `${URN}unknown-model`;
export const KEY_RETIRED = `${URN}key-retired`;
export const UNAVAILABLE = `${URN}party-unavailable`;

/** The error that stands for a problem document. */
export function fromProblem(problem: Problem): MoietyError {
  if (problem.type === `${URN}unauthorized` || problem.type === `${URN}forbidden`) return new NotAllowed(problem);
  if (problem.type === QUOTA) return new QuotaExceeded(problem);
  if (problem.type === EXPIRED) return new WrongClock(problem);
  if (problem.type === CHEATING) return new CheatingDetected(problem);
  if (problem.retryAfter !== null) return new ServiceUnavailable(problem);
  if (problem.type === NO_MODEL) return new UnknownModel(`${problem.message}. ${problem.hint}`);
  return new RequestRefused(problem);
}
