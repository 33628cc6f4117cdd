# An image of one role: client, crypto_provider, party (run as `party alice` and as `party bob`) or server. Each holds its own
# role's code, what all roles share, and the packages that these need: docker build --build-arg ROLE=party .
# The base image by digest, another build of PyTorch, another index: docs/deployment.md says how to name them.
ARG BASE=python:3.11-slim-bookworm
ARG ROLE

# PyTorch in a layer of its own, which all images that need it share, without its headers and tests. A CPU build is enough. TORCH
# is a file in requirements. An empty one spares the client's image this stage, which a builder without BuildKit would make and
# not use.
FROM $BASE AS torch
ARG TORCH=torch-hashes.txt
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements/${TORCH:-torch.txt} /torch.txt
RUN python -m venv --without-pip /venv && if [ -n "$TORCH" ]; then \
      pip --python /venv/bin/python install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r /torch.txt \
   && cd /venv/lib/python3*/site-packages/torch \
   && rm -rf test include && find bin -type f ! -name torch_shm_manager -delete; \
    fi

# What else the role needs, as its lock file says: `make lock`.
FROM $BASE AS packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG ROLE
COPY requirements/$ROLE.txt /requirements.txt
RUN python -m venv --without-pip /venv \
 && pip --python /venv/bin/python install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r /requirements.txt

# The role's own code and what all roles share; no other role's.
FROM $BASE AS moiety
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements/build.txt /requirements.txt
RUN python -m venv --without-pip /venv && python -m venv /build \
 && /build/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r /requirements.txt
COPY pyproject.toml README.md LICENSE /src/
COPY shared /src/shared
ARG ROLE
COPY $ROLE /src/$ROLE
ARG VERSION=0.3.0
RUN sed -i "s/^version = .*/version = \"$VERSION\"/" /src/pyproject.toml \
 && /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist /src \
 && pip --python /venv/bin/python install --no-cache-dir --no-deps --no-index /dist/*.whl

FROM $BASE AS empty
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
ENTRYPOINT ["/venv/bin/moiety"]

FROM empty AS computing
COPY --from=torch /venv /venv

# What differs between roles: their folders, port and command.
FROM empty AS client
RUN install -d -o 10001 -g 10001 -m 0700 /data /access \
 && ln -s "$(python -c 'import sys; print("/venv/lib/python%d.%d" % sys.version_info[:2])')/site-packages/moiety_client/sidecar/web/digits" /digits
EXPOSE 7704
CMD ["sidecar"]
LABEL org.opencontainers.image.title="moiety client" \
      org.opencontainers.image.description="The client: splits and seals inputs, opens answers; its sidecar serves a web page and REST."

FROM computing AS crypto_provider
RUN install -d -o 10001 -g 10001 -m 0700 /data /keys /keys/crypto_provider
EXPOSE 7703
CMD ["provider"]
LABEL org.opencontainers.image.title="moiety crypto provider" \
      org.opencontainers.image.description="Deals one-time randomness to the parties; sees no input, no weight, no result."

FROM computing AS party
RUN install -d -o 10001 -g 10001 -m 0700 /data /keys /keys/alice /keys/bob /store
EXPOSE 7701
LABEL org.opencontainers.image.title="moiety party" \
      org.opencontainers.image.description="A computing party, alice or bob: holds one share of each weight and each input."

FROM computing AS server
RUN install -d -o 10001 -g 10001 -m 0700 /data /access /keys /keys/ca /keys/alice /keys/bob /keys/crypto_provider /keys/server
EXPOSE 7700
CMD ["server"]
LABEL org.opencontainers.image.title="moiety server" \
      org.opencontainers.image.description="The model owner: publishes models, serves the signed catalogue, issues tokens."

FROM $ROLE
COPY --from=packages /venv /venv
COPY --from=moiety /venv /venv
RUN pip --python /venv/bin/python check
USER 10001:10001
WORKDIR /data
ARG BASE
ARG VERSION=0.3.0
ARG REVISION=unknown
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="$BASE" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
