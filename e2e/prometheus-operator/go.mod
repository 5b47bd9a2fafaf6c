module tokenward.dev/e2e/prometheus-operator

go 1.26.0

// For the CustomResourceDefinitions in its folder example/; nothing of it is built.
require github.com/prometheus-operator/prometheus-operator v0.85.0
