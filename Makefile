# What is here is a thin list of go commands: any of them can be pasted.
.POSIX:

GO = go
BIN = bin
FUZZTIME = 30s

.PHONY: run build image release test test-long test-packages bench fmt check-fmt vet clean

# Builds the proxy and starts it on :3128 with its defaults, or with the settings in the environment.
run: build
	$(BIN)/container-registry-proxy serve

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/container-registry-proxy ./cmd/container-registry-proxy

# The container images for amd64 and arm64, made of this source and this machine's root certificates, without an engine.
image:
	$(GO) run ./deploy/image -o $(BIN)

# Programs, packages for Debian and RPM, completions, man page, SBOM and checksums, the same bytes each time, in bin/release.
release:
	$(GO) run -C deploy/release . -o $(BIN)/release

# Everything: formatting, vet, all tests with the race detector, and real clients against the program as it is built.
test: check-fmt vet test-packages
	scripts/go-test-race -timeout=30m
	$(GO) test -timeout=30m -count=1 ./test/e2e/
	$(GO) test -C deploy/check -timeout=30m ./kube
	$(GO) test -C deploy/release -timeout=30m -count=1 .

# The same, several times and in another order each, what takes long (LONG=1), and every fuzz target for FUZZTIME.
test-long: check-fmt vet
	LONG=1 $(MAKE) test-packages
	scripts/go-test-race -timeout=60m -count=5 -shuffle=on
	scripts/fuzz $(FUZZTIME)
	LONG=1 $(GO) test -timeout=120m ./internal/app ./internal/setup ./internal/store/disk
	$(GO) test -timeout=60m -count=2 -shuffle=on ./test/e2e/
	LONG=1 $(GO) test -timeout=90m -count=1 -shuffle=on ./test/e2e/
	$(GO) test -C deploy/check -timeout=60m -count=1 ./...
	LONG=1 $(GO) test -C deploy/release -timeout=60m -count=1 .

# The container clients that ./test/e2e needs; root installs what is absent.
test-packages:
	@absent=$$(scripts/install-test-packages --check) || \
	if [ "$$(id -u)" = 0 ]; then scripts/install-test-packages; \
	else echo "tests with real clients are skipped: run scripts/install-test-packages as root, and them too; absent: $$absent"; fi

# The proxy beside nginx, distribution and the limit, with a verdict for each row; BENCHFLAGS=-short for the quick form.
bench:
	$(GO) run ./bench $(BENCHFLAGS)

fmt:
	gofmt -l -w bench cmd deploy internal test

check-fmt:
	@unformatted=$$(gofmt -l bench cmd deploy internal test) && test -z "$$unformatted" || \
	{ echo "make fmt would change: $$unformatted"; exit 1; }

vet:
	$(GO) vet ./...

clean:
	rm -rf $(BIN)
