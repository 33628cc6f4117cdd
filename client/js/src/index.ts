/** The client of moiety: private predictions from Node.js 20 and newer, and from browsers. */

export { type Access } from "./access.js";
export { Prediction } from "./answers.js";
export { Client, type ClientOptions, type PredictOptions, type Watched } from "./client.js";
export { type Canary, type Column, type Endpoint, type Entry, type Input, type Output, type Plan } from "./entry.js";
export {
  AccessFileError,
  CanaryFailed,
  CatalogueError,
  CatalogueUnavailable,
  CheatingDetected,
  ExpiredEntry,
  InsecureAddress,
  InvalidInput,
  LabelsOnly,
  MoietyError,
  NoLabels,
  NoProbabilities,
  NotAllowed,
  NotVerified,
  Problem,
  QuotaExceeded,
  RequestRefused,
  ResultRejected,
  ServiceUnavailable,
  UnknownModel,
  UntrustedEntry,
  WrongClock,
} from "./errors.js";
export { type ImageDataLike } from "./pictures.js";
