{{/* The image: by digest where there is one, else by tag. */}}
{{- define "tokenward.image" -}}
{{- $name := .Values.image.repository }}
{{- with .Values.image.registry }}
{{- $name = printf "%s/%s" (trimSuffix "/" .) $name }}
{{- end }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $name .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $name (.Values.image.tag | default (printf "v%s" .Chart.AppVersion)) }}
{{- end }}
{{- end }}

{{/* Labels of every object, besides those that kustomize puts on it. */}}
{{- define "tokenward.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The same of what a Prometheus selects by labels. */}}
{{- define "tokenward.labels.monitoring" -}}
{{- $common := merge (dict) .Values.monitoring.labels .Values.commonLabels }}
{{- include "tokenward.labels" (dict "Chart" .Chart "Release" .Release "Values" (dict "commonLabels" $common)) }}
{{- end }}

{{/* What the network policy lets out. */}}
{{- define "tokenward.apiServerPorts" -}}
{{- range .Values.networkPolicy.apiServerPorts }}
- port: {{ . }}
  protocol: TCP
{{- end }}
{{- end }}

{{/* Annotations of every object. */}}
{{- define "tokenward.annotations" -}}
{{- with .Values.commonAnnotations }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* Annotations of an object that stays when the release is uninstalled. */}}
{{- define "tokenward.annotations.kept" -}}
helm.sh/resource-policy: keep
{{- with include "tokenward.annotations" . }}
{{ . }}
{{- end }}
{{- end }}

{{/* Annotations of a CustomResourceDefinition. */}}
{{- define "tokenward.annotations.crd" -}}
{{- include (ternary "tokenward.annotations.kept" "tokenward.annotations" .Values.crds.keep) . }}
{{- end }}

{{/* What happens to bootstrap tokens. They are the cluster's, so an operator of some namespaces leaves them alone. */}}
{{- define "tokenward.cleaner" -}}
{{- .Values.flags.bootstrapTokenCleaner | default (ternary "enforce" "off" (eq .Values.scope "Cluster")) }}
{{- end }}

{{/* The flags that no object depends on, and the extra arguments. */}}
{{- define "tokenward.flags" -}}
{{- $args := list }}
{{- with .Values.flags.bootstrapTokenCleaner }}
{{- if ne . "off" }}
{{- $args = append $args (printf "--bootstrap-token-cleaner=%s" .) }}
{{- end }}
{{- end }}
{{- range $name, $value := omit .Values.flags "leaderElect" "bootstrapTokenCleaner" }}
{{- if kindIs "map" $value }}
{{- $pairs := list }}
{{- range $key, $label := $value }}
{{- $pairs = append $pairs (printf "%s=%s" $key $label) }}
{{- end }}
{{- $value = join "," $pairs }}
{{- end }}
{{- if $value }}
{{- $args = append $args (printf "--%s=%v" (kebabcase $name) $value) }}
{{- end }}
{{- end }}
{{- with concat $args .Values.extraArgs }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* The keys of the ConfigMap with the limits: lists have one entry a line. */}}
{{- define "tokenward.limits" -}}
{{- $data := dict }}
{{- range $name, $value := .Values.limits }}
{{- if kindIs "slice" $value }}
{{- $value = join "\n" $value }}
{{- end }}
{{- if $value }}
{{- $_ := set $data $name (toString $value) }}
{{- end }}
{{- end }}
{{- toYaml $data }}
{{- end }}
