/** What the tests call of the inside. It is in no package. */

export { Prediction } from "../src/answers.js";
export * from "../src/bytes.js";
export { expand, fitsCanary, places } from "../src/canaries.js";
export { decoded } from "../src/decoding.js";
export { Elements, encode, fits, inRange } from "../src/elements.js";
export * as errors from "../src/errors.js";
export { Client } from "../src/client.js";
export { Call, handshake, joined, seal, Sealer } from "../src/exchange.js";
export { encodeInputs } from "../src/inputs.js";
export { canonical, parse, plain } from "../src/json.js";
export { cipherKey, decrypt, encrypt, SealingKey, suite } from "../src/sealing.js";
export { Holder, verifies } from "../src/signing.js";
export { stream } from "../src/stream.js";
export { accept } from "../src/verified.js";
export { believe } from "../src/trust.js";
export { Vocabulary } from "../src/vocabulary.js";
export { context, handshakeInfo, packHandshake, statement } from "../src/wire.js";
export { readAccess } from "../src/access.js";
