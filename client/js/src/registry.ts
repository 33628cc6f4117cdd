/** Every problem that a service may answer with, by its type. Made from problems.py by `make docs-reference`. */

export interface Registered {
  title: string;
  hint: string;
  /** The seconds after which to try again, where a repetition makes sense. */
  retryAfter?: number;
}

export const PROBLEMS: Readonly<Record<string, Registered>> = {
  "urn:moiety:error:malformed": {"title": "The message is not well formed", "hint": "Use the moiety client of the same version. A proxy may have cut or changed the message."},
  "urn:moiety:error:unsupported-version": {"title": "The message or file has another version", "hint": "One side runs an older release of moiety: upgrade it (docs/operations.md)."},
  "urn:moiety:error:invalid-input": {"title": "The input does not fit the model", "hint": "Compare it with the shape, type and range in the model's catalogue entry."},
  "urn:moiety:error:sealed-for-another": {"title": "The envelope cannot be opened here", "hint": "It was sealed for another party, model or request, or somebody changed it. Read the catalogue again."},
  "urn:moiety:error:key-retired": {"title": "The envelope was sealed to a key that is no longer accepted", "hint": "Read the model's catalogue entry again: it names the current keys."},
  "urn:moiety:error:provider-key-retired": {"title": "The upload was sealed to a key that the crypto provider no longer has", "hint": "Copy sealing.pub from the provider's secrets folder to the owner's, as provider.pub. Then publish again."},
  "urn:moiety:error:unauthorized": {"title": "The credential or token is missing, unknown or expired", "hint": "Clients: ask the model owner for a new token. Operators: check that each link uses its own credential."},
  "urn:moiety:error:forbidden": {"title": "The credential or token does not allow that", "hint": "Clients: ask the model owner what your token allows. Operators: check which credential the link uses."},
  "urn:moiety:error:quota-exceeded": {"title": "The token's quota is used up", "hint": "Wait for the time that Retry-After says, or ask the model owner for a larger quota."},
  "urn:moiety:error:not-found": {"title": "There is nothing at this address", "hint": "Check the path."},
  "urn:moiety:error:method-not-allowed": {"title": "This address does not support that method", "hint": "See /docs."},
  "urn:moiety:error:unknown-model": {"title": "The model is not served here", "hint": "Ask the catalogue which models there are; the owner may have published a new version."},
  "urn:moiety:error:unknown-lease": {"title": "The lease is unknown, or its model was deleted", "hint": "Open a new lease."},
  "urn:moiety:error:request-conflict": {"title": "This request id was already used with other content", "hint": "Use a fresh request id for every prediction."},
  "urn:moiety:error:request-expired": {"title": "The request's time is too far from now, or its answer is no longer kept", "hint": "Make a new request. If it is refused too, one of the two clocks is wrong: set it, for example by NTP."},
  "urn:moiety:error:upload-conflict": {"title": "This upload id was used before", "hint": "Publish again: every upload gets a new id."},
  "urn:moiety:error:already-issued": {"title": "This randomness was issued before and will never be issued again", "hint": "Ask for the next bundle."},
  "urn:moiety:error:row-used": {"title": "The request names a row of randomness that is used up or never existed", "hint": "Nothing was opened. Send the request again.", "retryAfter": 1},
  "urn:moiety:error:too-large": {"title": "The body is larger than this address accepts", "hint": "Send fewer inputs at a time. The catalogue entry gives the limit."},
  "urn:moiety:error:request-timeout": {"title": "The request took too long to arrive", "hint": "The service closed the connection. Send the request again over a faster link."},
  "urn:moiety:error:headers-too-large": {"title": "The request's headers are too long or too many", "hint": "Send fewer or shorter headers. A proxy may have added some."},
  "urn:moiety:error:length-required": {"title": "The request does not state its body's length", "hint": "Send a Content-Length. The service does not accept chunked bodies."},
  "urn:moiety:error:encoding-refused": {"title": "Compressed bodies are not accepted", "hint": "Send the body without Content-Encoding: sealed data does not compress."},
  "urn:moiety:error:wrong-host": {"title": "The sidecar does not answer to that host name", "hint": "Use localhost, or list the name in MOIETY_CLIENT_HOSTS."},
  "urn:moiety:error:cross-origin": {"title": "Pages of that site may not use this service", "hint": "Ask the operator to list the page's origin, or use a program that sends no Origin header. A sidecar serves its own page alone."},
  "urn:moiety:error:untrusted": {"title": "The catalogue entry or the answer cannot be trusted", "hint": "Compare the key with the model owner's, and tell them: somebody may have changed the catalogue or the answer."},
  "urn:moiety:error:catalogue-unavailable": {"title": "The model owner's catalogue cannot be reached", "hint": "Start the model owner's server, or ask its owner for a new access file.", "retryAfter": 2},
  "urn:moiety:error:party-unavailable": {"title": "The computing parties cannot be reached", "hint": "Try again shortly. If that fails, ask the model owner whether alice and bob are running.", "retryAfter": 2},
  "urn:moiety:error:peer-unavailable": {"title": "The other party cannot be reached, or the connection broke off", "hint": "The parties discarded the randomness of this run. Try again shortly.", "retryAfter": 2},
  "urn:moiety:error:peer-version": {"title": "The computing parties run different versions", "hint": "Ask the operators to bring alice and bob to the same release (docs/operations.md). Then send it again.", "retryAfter": 10},
  "urn:moiety:error:cheating-detected": {"title": "A party computed otherwise than the protocol says, or a check has no verdict", "hint": "Use no answer of this run. Tell the model's owner, who finds out what happened and then gives the model another key: moiety rekey MODEL."},
  "urn:moiety:error:openings-differ": {"title": "The parties did not open the same values", "hint": "The parties gave nothing out and discarded the randomness. Try again. If it happens again, something changes the traffic between alice and bob.", "retryAfter": 1},
  "urn:moiety:error:provider-unavailable": {"title": "The crypto provider cannot be reached", "hint": "Start the crypto provider, or check its address in the party's settings.", "retryAfter": 2},
  "urn:moiety:error:randomness-exhausted": {"title": "No prepared randomness is left for this model", "hint": "Try again shortly: the pool refills from the crypto provider.", "retryAfter": 1},
  "urn:moiety:error:state-unavailable": {"title": "The service's database or store does not answer", "hint": "Try again shortly. The operator should check that the database and the store are running.", "retryAfter": 2},
  "urn:moiety:error:disk-full": {"title": "The disk is full", "hint": "Free some space, or ask the operator to do so. Then try again."},
  "urn:moiety:error:overloaded": {"title": "Too many requests are under way", "hint": "Try again shortly.", "retryAfter": 1},
  "urn:moiety:error:stopping": {"title": "The service is stopping and accepts nothing new", "hint": "Try again shortly: another instance takes over, or this one restarts.", "retryAfter": 1},
  "urn:moiety:error:internal": {"title": "Something went wrong inside the service", "hint": "Look for the request id in the logs of the service."},
};

export const INTERNAL = "urn:moiety:error:internal";
