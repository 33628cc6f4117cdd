"""The JavaScript client, `client/js`, in Node.js."""
