#!/bin/sh
# What the processes of one Ray cluster trust each other by: a CA, and a certificate for each node.
#   ray-tls.sh FOLDER NODE_ADDRESS...
# Take ca.pem and a node's two files to that node, and name them in RAY_TLS_CA_CERT, RAY_TLS_SERVER_CERT and
# RAY_TLS_SERVER_KEY, with RAY_USE_TLS=1. Keep ca.key offline.
set -eu
umask 077
folder=$1
shift
mkdir -p "$folder"
cd "$folder"
curve="ec -pkeyopt ec_paramgen_curve:P-256"
# shellcheck disable=SC2086  # words of an option
openssl req -x509 -newkey $curve -nodes -days 3650 -subj "/CN=ray cluster" -keyout ca.key -out ca.pem
for node in "$@"; do
    # shellcheck disable=SC2086
    openssl req -newkey $curve -nodes -subj "/CN=$node" -keyout "$node.key" -out "$node.csr"
    # Every process of Ray's is a server and a client.
    printf 'subjectAltName=IP:%s,IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n' "$node" >"$node.ext"
    openssl x509 -req -in "$node.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 825 -extfile "$node.ext" -out "$node.pem"
    rm "$node.csr" "$node.ext"
done
