# `make` alone lists the targets.
CARGO ?= cargo
E2E = -p tokenward-e2e
# End-to-end tests mostly wait, so more of them run at once than there are cores: so many programs, with so many threads each.
TEST_JOBS ?= 5
TEST_THREADS ?= 6
# All there are, the longest first.
LONG = life bench rights address node bad_days monitoring
TESTS = $(LONG) $(filter-out $(LONG),$(patsubst e2e/tests/%/main.rs,%,$(wildcard e2e/tests/*/main.rs)) $(patsubst e2e/tests/%.rs,%,$(wildcard e2e/tests/*.rs)))

.DEFAULT_GOAL := help
.PHONY: help build plugin test build-tests programs test-units licences lint demo cluster bench crds monitoring chart reference docs pictures image node-test sbom dist deny reproducible FORCE

help: ## List these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

# Panics name source files, ours by their path in this folder: the same names wherever the binary is built.
REMAP = --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=/cargo

# Static linking is decided with the last crate: the binary needs no library, and so no base image.
build: ## Build the operator's release binary
	RUSTFLAGS="$$RUSTFLAGS $(REMAP)" $(CARGO) rustc --release --locked --bin tokenward -- -C target-feature=+crt-static

plugin: ## Build the release binary of the kubectl plugin
	RUSTFLAGS="$$RUSTFLAGS $(REMAP)" $(CARGO) rustc --release --locked --package kubectl-tokenward -- -C target-feature=+crt-static

# Control planes and kubectl live for minutes or less: more heap for them saves a tenth of their time.
test: licences ## Run everything: format, lints, unit, property and end-to-end tests on a real control plane
	$(MAKE) --no-print-directory --jobs=4 lint build programs test-units
	GOGC=$${GOGC-400} $(MAKE) --no-print-directory --keep-going --jobs=$(TEST_JOBS) --output-sync plugin $(TESTS:%=test-%)

# These two, and the unit tests, beside the release binary, whose last step uses one core.
build-tests:
	$(CARGO) test --workspace --locked --no-run

# The programs of others that tests run: built beside the tests, they would starve those for half an hour.
# A test whose program could not be built says so.
programs: build-tests
	-$(TARGET)/debug/programs

test-units: build-tests
	$(CARGO) test --workspace --locked --no-fail-fast --lib --bins
	$(CARGO) test --workspace --locked --doc

# Of the whole workspace, as above: for one package alone its dependencies would be built once more, with other features.
test-%:
	$(CARGO) test --workspace --locked --test $* -- --test-threads=$(TEST_THREADS)

# The others do not wait for it. It comes first, as the build takes as long as the longest of them.
test-dist test-hygiene test-plugin: plugin

licences:
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(MAKE) --no-print-directory deny; \
	else echo "cargo-deny is not installed: licences, origins and versions of the dependencies are not checked"; fi

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

dist: build plugin ## Write a release into target/dist; IMAGE=registry.example.com/tokenward names its image there, DOWNLOADS=https://… its place for krew
	$(CARGO) run --locked -q $(E2E) --bin dist -- '$(IMAGE)' '$(DOWNLOADS)'

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

chart: ## Generate charts/tokenward from config/
	$(CARGO) run --locked -q $(E2E) --bin chart

crds: crds/tokenpolicies.yaml crds/bootstrap/bootstraptokenpolicies.yaml crds/legacy/legacytokenpolicies.yaml ## Generate crds/ from the code

crds/%.yaml: FORCE
	@new=$$(mktemp) && trap 'rm -f "$$new"' EXIT && \
	$(CARGO) run --locked -q --bin tokenward -- crds $(notdir $*) > "$$new" && cat "$$new" > $@

monitoring: config/components/monitoring/prometheus-rule.yaml ## Generate the PrometheusRule from monitoring/alerts.yaml

# The spec of a PrometheusRule is a rule file.
config/components/monitoring/prometheus-rule.yaml: monitoring/alerts.yaml FORCE
	@{ printf '%s\n' '# Generated by `make monitoring` from monitoring/alerts.yaml.' \
	  'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' \
	  'metadata:' '  name: tokenward' '  namespace: tokenward-system' \
	  '  labels: {app.kubernetes.io/name: tokenward, app.kubernetes.io/part-of: tokenward}' 'spec:' && \
	  sed 's/^./  &/' $<; } > $@

reference: ## Generate the tables of docs/reference/ from the code
	WRITE_REFERENCE=1 $(CARGO) test --workspace --locked -q --lib reference::

# Built once, as the control plane is; `make docs MDBOOK=mdbook` takes the one of your PATH.
TARGET = $(abspath $(or $(CARGO_TARGET_DIR),target))
MDBOOK_VERSION = 0.5.4
MDBOOK ?= $(TARGET)/mdbook-$(MDBOOK_VERSION)/bin/mdbook

docs: $(if $(findstring /,$(MDBOOK)),$(MDBOOK)) ## Build the documentation as a site: target/docs/index.html
	$(MDBOOK) build docs --dest-dir $(TARGET)/docs

# In a target folder of its own, which cargo removes: its crates have nothing to do with ours.
$(TARGET)/mdbook-$(MDBOOK_VERSION)/bin/mdbook:
	env -u CARGO_TARGET_DIR $(CARGO) install --locked --no-default-features --features search --root $(TARGET)/mdbook-$(MDBOOK_VERSION) \
	  mdbook --version $(MDBOOK_VERSION)

pictures: build ## Draw the terminals in docs/ anew, from runs of the demo
	$(CARGO) build --locked $(E2E) --bin demo --bin picture
	CLICOLOR_FORCE=1 $(TARGET)/debug/demo </dev/null | sed 's|$(TARGET)/|target/|g' >$(TARGET)/story.txt
	$(TARGET)/debug/picture <$(TARGET)/story.txt >docs/pictures/story.svg
	sed -n '/get tokenpolicies/,/✓/{/✓/!p}' $(TARGET)/story.txt | $(TARGET)/debug/picture >docs/pictures/get-tp.svg
	BRIEF=1 CLICOLOR_FORCE=1 $(TARGET)/debug/demo </dev/null | $(TARGET)/debug/picture >docs/demo.svg

FORCE:
