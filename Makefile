# `make` alone lists the targets.
CARGO ?= cargo
E2E = -p tokenward-e2e
# End-to-end tests mostly wait, so more of them run at once than there are cores: so many programs, with so many threads each.
TEST_JOBS ?= 3
TEST_THREADS ?= 6
# All there are, the longest first.
TESTS = life $(filter-out life,$(patsubst e2e/tests/%/main.rs,%,$(wildcard e2e/tests/*/main.rs)) $(patsubst e2e/tests/%.rs,%,$(wildcard e2e/tests/*.rs)))

.DEFAULT_GOAL := help
.PHONY: help build test test-units lint demo cluster bench crds image node-test sbom deny reproducible FORCE

help: ## List these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

# Panics name source files, ours by their path in this folder: the same names wherever the binary is built.
REMAP = --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=/cargo

# Static linking is decided with the last crate: the binary needs no library, and so no base image.
build: ## Build the operator's release binary
	RUSTFLAGS="$$RUSTFLAGS $(REMAP)" $(CARGO) rustc --release --locked --bin tokenward -- -C target-feature=+crt-static

test: lint build ## Run everything: format, lints, unit, property and end-to-end tests on a real control plane
	$(CARGO) test --workspace --locked --no-run
	$(MAKE) --no-print-directory --keep-going --jobs=$(TEST_JOBS) --output-sync test-units $(TESTS:%=test-%)

test-units:
	$(CARGO) test --workspace --locked --no-fail-fast --lib --bins
	$(CARGO) test --workspace --locked --doc

# Of the whole workspace, as above: for one package alone its dependencies would be built once more, with other features.
test-%:
	$(CARGO) test --workspace --locked --test $* -- --test-threads=$(TEST_THREADS)

lint: ## Check the format and the lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

demo: build ## Show and check the whole story on a control plane of its own; CLUSTER=current: on that of your kubeconfig
	$(CARGO) run --locked $(E2E) --bin demo -- $(CLUSTER)

cluster: ## Run a control plane in the foreground until Ctrl-C (CLUSTER_DIR, default target/cluster)
	$(CARGO) run --locked -q $(E2E) --bin cluster

bench: build ## Measure the operator against a bare loop of the same calls
	$(CARGO) run --release --locked $(E2E) --bin bench

image: build ## Build the operator's image without a container engine: target/image/tokenward.tar (OCI archive)
	$(CARGO) run --locked -q $(E2E) --bin image

node-test: build ## Run the image on a real kubelet and containerd (needs root); `make test` does it as well
	$(MAKE) --no-print-directory test-node

sbom: ## Write the bill of materials (CycloneDX) of the release binary: target/tokenward.cdx.json
	@mkdir -p target
	$(CARGO) run --locked -q $(E2E) --bin sbom > target/tokenward.cdx.json

deny: ## Check the dependencies' licences, origins and versions (needs cargo-deny)
	$(CARGO) deny --locked check bans licenses sources

reproducible: ## Build the last commit's binary in two folders, and compare
	rm -rf target/reproducible
	for folder in one another/two; do \
	  mkdir -p target/reproducible/$$folder && git archive HEAD | tar -x -C target/reproducible/$$folder && \
	  CARGO_TARGET_DIR=$(CURDIR)/target/reproducible/$$folder/target $(MAKE) -C target/reproducible/$$folder build || exit 1; \
	done
	cd target/reproducible && sha256sum one/target/release/tokenward another/two/target/release/tokenward && \
	cmp one/target/release/tokenward another/two/target/release/tokenward && \
	! grep -c "$$HOME" one/target/release/tokenward

crds: crds/tokenpolicies.yaml crds/bootstrap/bootstraptokenpolicies.yaml ## Generate crds/ from the code

crds/%.yaml: FORCE
	@new=$$(mktemp) && trap 'rm -f "$$new"' EXIT && \
	$(CARGO) run --locked -q --bin tokenward -- crds $(notdir $*) > "$$new" && cat "$$new" > $@

FORCE:
