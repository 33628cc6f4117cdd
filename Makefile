# Every target makes .venv by itself when it is missing: `make demo` with what the demo needs, the others with all the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := moiety moiety_shared moiety_service moiety_crypto_provider moiety_party moiety_server moiety_client moiety_local \
  moiety_syft benchmarks
# The roles of which there is an image and a lock file.
IMAGES := client crypto_provider party server
COMPILE = UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --generate-hashes \
  --python-version 3.11 --python-platform x86_64-manylinux_2_28

# Environments of their own: with the lowest versions that pyproject.toml allows, and with a Python newer than the images'.
LOWEST := .venv-lowest
NEWEST := .venv-newest
LOWEST_EXTRAS := client party crypto-provider server onnx syft tracing postgres s3
LOWEST_TESTS := house/test_versions services/test_serving services/test_uvicorn services/test_telemetry services/test_database \
  party/test_store server/test_catalogue server/test_tokens compiler/test_onnx client/sidecar/test_guard client/sidecar/test_protocol \
  client/sidecar/test_tritonclient client/sdk/test_clients deployment/test_observed syft/test_revealing
# What is tested without PyTorch: the client and its sidecar, what the roles share, the services' shell.
NEWEST_TESTS := client/test_client shared/test_codecs services/test_draining house/test_monitoring party/test_requests \
  services/test_serving services/test_telemetry server/test_tokens services/test_uvicorn client/sidecar/test_guard \
  client/sidecar/test_protocol
# The one on the PATH or pyenv's; else uv looks for one, and fetches it.
PYTHON_NEWEST = $(firstword $(shell python3.13 -c 'import sys; print(sys.executable)' 2>/dev/null) \
  $(wildcard $(shell pyenv root 2>/dev/null)/versions/3.13*/bin/python3.13) 3.13)

# The commit that is built, and the version that tells of it: 0.2.0+g1498762, or 0.2.0 where a tag names the commit a release.
TREE ?= HEAD
DIST ?= dist
COMMIT = $(shell git rev-parse $(TREE))
VERSION = $(shell git show $(TREE):pyproject.toml | sed -n 's/^version = "\(.*\)"/\1/p')$(shell \
  git describe --exact-match --tags $(TREE) >/dev/null 2>&1 || git rev-parse --short $(TREE) | sed 's/^/+g/')

.PHONY: demo test test-lowest test-newest lowest newest test-zoo test-compose test-scale test-long test-simulation test-verified test-javascript page docs docs-integrity docs-reference fuzz check bench bench-peers \
  browsers lock prometheus postgres nginx sbom wheel release clean
demo: $(VENV)/$(if $(wildcard $(VENV)/.installed),.installed,.demo)
	$(BIN)/moiety demo

# In two halves beside one another, since tests wait for processes more than they compute; each always in the same order.
HALF := $(addprefix tests/,compat compiler house protocols server shared simulation client)
test: $(VENV)/.installed
	$(BIN)/pytest $(HALF) >half.log 2>&1 & half=$$!; \
	  $(BIN)/pytest $(addprefix --ignore=,$(HALF)); rest=$$?; \
	  wait $$half; half=$$?; cat half.log; exit $$((rest + half))

# The lowest versions run: the hot paths of each role, processes, databases, stores and formats; two to four minutes.
test-lowest: lowest
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps --no-build-isolation --reinstall-package moiety .
	$(LOWEST)/bin/pytest -p no:cacheprovider -m "not long" $(LOWEST_TESTS:%=tests/%.py)

# Python 3.13 runs what needs no PyTorch; the network's plan and some digits come from the environment that has it.
test-newest: newest
	$(BIN)/uv pip install --quiet --python $(NEWEST)/bin/python --no-deps --reinstall-package moiety .
	$(BIN)/python -m tests.mnist $(NEWEST)
	MOIETY_TEST_MNIST=$(NEWEST) $(NEWEST)/bin/pytest -p no:cacheprovider $(NEWEST_TESTS:%=tests/%.py)

lowest: $(LOWEST)/.installed
newest: $(NEWEST)/.installed

# uv chooses the versions, pip the build of PyTorch, of which there are several.
$(LOWEST)/.installed: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m venv --clear --without-pip $(LOWEST)
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --python $(LOWEST)/bin/python $(addprefix --extra ,$(LOWEST_EXTRAS)) \
	  --constraint requirements/torch.txt --no-emit-package torch --excludes requirements/cuda.txt \
	  pyproject.toml requirements/build.in --output-file $(LOWEST)/versions.txt
	$(BIN)/python -m pip --python $(LOWEST)/bin/python install --quiet --progress-bar off -r requirements/torch.txt
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps -r $(LOWEST)/versions.txt
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --constraint $(LOWEST)/versions.txt \
	  pytest hypothesis "moto[s3,server]" "tritonclient[http]"
	touch $@

$(NEWEST)/.installed: pyproject.toml $(VENV)/.installed
	$(BIN)/uv venv --quiet --clear --python $(PYTHON_NEWEST) $(NEWEST)
	$(BIN)/uv pip install --quiet --python $(NEWEST)/bin/python ".[client,tracing,postgres]" alembic websockets pytest hypothesis
	touch $@

# What the tests of the web page need: Debian's Chromium, and axe-core for what cannot see it; and the modules of which the
# JavaScript client is built. Node.js must be there.
browsers: tests/web/node_modules/.installed client/js/node_modules/.installed
	@command -v chromium >/dev/null || if [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && apt-get install -y -qq chromium; \
	else echo "install chromium: sudo apt-get install chromium"; exit 1; fi

# What the tests of the alerts and the dashboard need: Debian's Prometheus, with promtool.
prometheus:
	@command -v promtool >/dev/null || if [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; \
	else echo "install prometheus: sudo apt-get install prometheus"; exit 1; fi

# What the tests of databases need: Debian's PostgreSQL. They start a server of their own, and end it.
postgres:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || if [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && apt-get install -y -qq postgresql; \
	else echo "install PostgreSQL: sudo apt-get install postgresql"; exit 1; fi

# What the test of replicas behind a load balancer needs: Debian's nginx, which that test runs by itself.
nginx:
	@command -v nginx >/dev/null || if [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && apt-get install -y -qq nginx-light libnginx-mod-stream; \
	else echo "install nginx: sudo apt-get install nginx-light libnginx-mod-stream"; exit 1; fi

%/node_modules/.installed: %/package-lock.json
	@command -v npm >/dev/null || if [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && apt-get install -y -qq npm; \
	else echo "install npm: sudo apt-get install npm"; exit 1; fi
	npm ci --prefix $* --no-audit --no-fund --silent
	touch $@

# Whole architectures at 224 x 224: half an hour and more.
test-zoo: $(VENV)/.installed
	$(BIN)/pytest -m zoo --no-header -rA

# Replicas on Ray Serve: clusters of several nodes, on this machine; some minutes, and 6 GB.
test-scale: $(VENV)/.installed postgres
	$(BIN)/pytest -m scale --no-header -rA

# The images, built and run by a real Docker daemon; it is started if need be, which takes root.
test-compose: $(VENV)/.installed
	tests/compose/with-docker $(BIN)/pytest -m compose --no-header -rA tests/compose

# What goes into the images, with hashes. Versions in the files are kept while they fit: UPGRADE=--upgrade takes the newest.
lock: $(VENV)/.installed
	for image in $(IMAGES); do \
	  database=$$([ $$image = client ] || echo --extra postgres); \
	  $(COMPILE) $(UPGRADE) pyproject.toml --extra $$image --extra tracing $$database --constraint requirements/torch.txt --no-emit-package torch \
	    --excludes requirements/cuda.txt --output-file requirements/$$image.txt || exit 1; \
	done
	$(COMPILE) $(UPGRADE) requirements/build.in --output-file requirements/build.txt

# A bill of materials (CycloneDX) for each image, into dist/sbom.
sbom: $(VENV)/.installed
	mkdir -p dist/sbom
	for image in $(IMAGES); do \
	  torch=$$([ $$image = client ] || echo requirements/torch.txt); \
	  cat requirements/$$image.txt $$torch | $(BIN)/cyclonedx-py requirements - --pyproject pyproject.toml \
	    --mc-type application --output-reproducible --output-file dist/sbom/$$image.cdx.json 2>/dev/null || exit 1; \
	done

# A wheel of the commit, in dist/: what is not committed is not in it.
wheel: $(VENV)/.installed
	rm -rf $(DIST)/source && mkdir -p $(DIST)/source
	git archive $(TREE) | tar -x -C $(DIST)/source
	git show $(TREE):pyproject.toml | sed 's/^version = .*/version = "$(VERSION)"/' >$(DIST)/source/pyproject.toml
	cd $(DIST)/source && $(abspath $(BIN))/python -m hatchling build --target wheel --directory ..

# All that a release consists of, of one commit: the wheel, the bills of materials, and the images, tagged with the version.
release: wheel sbom
	cd $(DIST)/source && docker-compose build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(COMMIT)
	for image in $(IMAGES); do \
	  name=moiety-$$(echo $$image | tr _ -); docker tag $$name $$name:$(subst +,-,$(VERSION)) || exit 1; \
	done

# Every parser against broken messages, FUZZ_SECONDS (60) each; a finding is left in tests/fuzz/corpus.
fuzz: $(VENV)/.installed
	-$(BIN)/python -m pip install --quiet --progress-bar off -e ".[fuzz]"
	$(BIN)/python -m tests.fuzz

# Ten thousand lies in verified runs; some minutes.
test-verified: $(VENV)/.installed
	$(BIN)/pytest tests/protocols/verified -m 'long or not long'

# The JavaScript client asks for a thousand images, where MOIETY_SERVER_MNIST_DIR has them.
test-javascript: $(VENV)/.installed client/js/node_modules/.installed
	$(BIN)/pytest tests/javascript --no-header -rP -m 'long or not long'

# The client inside of the owner's page, from client/js.
page: client/js/node_modules/.installed
	cd client/js && npm run build --silent && cp dist/index.js ../../server/moiety_server/web/client.js && \
	  cp dist/LICENSES.txt ../../server/moiety_server/web/client.LICENSES.txt

# What CI has no time for: an upgrade from 0.1, the wheel's own demo, three tutorials, ONNX's own tests, several deployments; most of an hour.
test-long: $(VENV)/.installed
	$(BIN)/pytest -m "long and not compose" --no-header -rA

# The random simulations, for some minutes instead of seconds; and the table of flipped bits in docs/security.md.
test-simulation: $(VENV)/.installed
	$(BIN)/pytest tests/simulation --steps 300 -m 'long or not long'

docs-integrity: $(VENV)/.installed
	$(BIN)/pytest tests/simulation/test_flips.py --rewrite -m long

# The site, into site/; a warning is an error. And what the documentation takes from the program: reference, pictures,
# and what the tutorials' notebooks print.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-reference: $(VENV)/.installed
	$(BIN)/pytest tests/house/test_documentation.py tests/house/test_tutorials.py --rewrite -m 'long or not long'

check: $(VENV)/.installed docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(addprefix -p ,$(PACKAGES))
	$(BIN)/pytest tests/house/test_house_rules.py

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

# CrypTen and SPU beside moiety, on the same networks, in turn; the tables of docs/benchmarks.md anew. They are installed into
# build/peers, once (2.4 GB); then some minutes. pip wants a CPU build of torch 2.13.0: name an index that has one in PIP_EXTRA_INDEX_URL.
bench-peers: $(VENV)/.installed
	$(BIN)/python -m benchmarks.peers --keep
	$(BIN)/pytest tests/house/test_documentation.py -k "engines or figures" --rewrite

# uv, where it is on the PATH, takes a CPU build of PyTorch from PyTorch's own index. Where that is not to be reached, or without uv,
# pip takes one if your index has it (2.13.0+cpu is newer than 2.13.0 to pip). PyPI has none for Linux: name another index in
# PIP_EXTRA_INDEX_URL.
DEMO = --constraint requirements/torch.txt --editable ".[demo]"
$(VENV)/.demo: pyproject.toml requirements/torch.txt
	@echo "PyTorch and some 60 packages go into $(VENV), once."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	command -v uv && uv pip install --python $(BIN)/python --torch-backend cpu $(DEMO) || $(BIN)/python -m pip install $(DEMO)
	touch $@

# pip chooses the build of PyTorch, of which there are several; uv installs the other 250 packages, in seconds for minutes.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/python -m pip install --quiet --progress-bar off "torch>=2.13" "torchvision>=0.29"
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[all,dev]"
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(NEWEST) .moiety
