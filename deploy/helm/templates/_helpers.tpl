{{/* What runs, as deploy/Dockerfile and docker-compose.yml have it: target of the image, words of the
command, where it answers, what of the shared volume it sees, for how long a job may run. */}}
{{- define "everlearn.programs" -}}
{{- $config := .Values.config -}}
gateway:
  target: gateway
  words: [gateway]
  port: {{ $config.gateway.port }}
  ready: /ready
  alive: /health
  metrics: true
shipper:
  target: collector
  words: [ship]
  port: {{ $config.bus.metrics_port }}
  alive: /
collector:
  target: collector
  words: [collect]
  port: {{ $config.collector.metrics_port }}
  ready: /
  alive: /
  metrics: true
releases:
  target: serving
  words: [releases, run]
  port: {{ $config.releases.metrics_port }}
  ready: /
  alive: /
  metrics: true
  shared: [adapters]
console:
  target: console
  words: [console]
  port: {{ $config.console.port }}
  ready: /health
  alive: /health
  metrics: true
  measured: {{ $config.console.metrics_port | default 0 }}
  shared: [adapters]
evaluator:
  target: evaluators
  words: [evaluate]
  seconds: 1800
trainer:
  target: trainer
  words: [train]
  seconds: 21600
  shared: [adapters, training, huggingface]
maintain:
  target: collector
  words: [maintain]
  seconds: 7200
{{- end }}

{{- define "everlearn.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{- define "everlearn.selector" -}}
app.kubernetes.io/name: everlearn
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "everlearn.labels" -}}
{{ include "everlearn.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "everlearn.metadata" -}}
name: {{ include "everlearn.name" .root }}-{{ .name }}
labels: {{- include "everlearn.labels" . | nindent 2 }}
{{- end }}

{{/* One container. Of `root`, `name` of the program, `more` words, settings of the pod. */}}
{{- define "everlearn.container" -}}
{{- $program := get (fromYaml (include "everlearn.programs" .root)) .name -}}
{{- $values := .root.Values -}}
name: {{ .name }}
image: {{ printf "%s-%s:%s" $values.image.repository $program.target ($values.image.tag | default .root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
command: {{ concat (list "everlearn") $program.words (.more | default list) (list "--config" "/etc/everlearn/everlearn.yaml") | toJson }}
env:
  - {name: EVERLEARN_CONFIG, value: /etc/everlearn/everlearn.yaml}
  - {name: HF_HOME, value: /var/lib/everlearn/huggingface}
envFrom:
  - secretRef: {name: {{ .settings.existingSecret | quote }}}
securityContext:
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
resources: {{- toYaml (get $values .name).resources | nindent 2 }}
{{- with $program.port }}
ports:
  - {name: {{ $.name }}, containerPort: {{ . }}}
  {{- with $program.measured }}
  - {name: metrics, containerPort: {{ . }}}
  {{- end }}
{{- end }}
{{- with $program.ready }}
readinessProbe:
  httpGet: {path: {{ . }}, port: {{ $.name }}}
  periodSeconds: 5
{{- end }}
{{- with $program.alive }}
# A process that waits for a store is alive; one that has not begun to answer has five minutes.
startupProbe:
  httpGet: {path: {{ . }}, port: {{ $.name }}}
  periodSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: {{ . }}, port: {{ $.name }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}
volumeMounts:
  - {name: config, mountPath: /etc/everlearn/everlearn.yaml, subPath: everlearn.yaml, readOnly: true}
  - {name: tasks, mountPath: /etc/everlearn/tasks, readOnly: true}
  - {name: data, mountPath: /var/lib/everlearn}
  - {name: tmp, mountPath: /tmp}
  {{- range $program.shared }}
  - {name: shared, mountPath: /var/lib/everlearn/{{ . }}, subPath: {{ . }}}
  {{- end }}
  {{- with .settings.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The template of a pod. Of `root`, `name`, and for what runs once `more` words. */}}
{{- define "everlearn.pod" -}}
{{- $root := .root -}}
{{- $program := get (fromYaml (include "everlearn.programs" $root)) .name -}}
{{- $settings := mergeOverwrite (deepCopy $root.Values.pod) ((get $root.Values .name).pod | default dict) -}}
{{- $container := merge (dict "settings" $settings) . -}}
metadata:
  labels: {{- include "everlearn.labels" . | nindent 4 }}
  annotations:
    # A new config starts new pods; tasks are read again as they change.
    checksum/config: {{ toJson $root.Values.config | sha256sum }}
    {{- if $program.metrics }}
    prometheus.io/scrape: "true" # each port of the pod, where none is named
    {{- with $program.measured }}
    prometheus.io/port: {{ . | quote }}
    {{- end }}
    {{- end }}
    {{- with $settings.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ $settings.serviceAccountName }}
  automountServiceAccountToken: false
  # Kubernetes would set EVERLEARN_GATEWAY_PORT=tcp://..., which is read as a setting.
  enableServiceLinks: false
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {{- toYaml $settings.seccompProfile | nindent 6 }}
  {{- with $settings.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $settings.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $program.seconds }}
  restartPolicy: Never
  {{- else }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "everlearn.selector" . | nindent 10 }}
  {{- end }}
  {{- if eq .name "gateway" }}
  # Out of the Service first, then requests in flight end, then the shipper sends what is left.
  terminationGracePeriodSeconds: {{ add 5 (ceil $root.Values.config.gateway.drain_seconds) 10 40 }}
  initContainers:
    - {{ include "everlearn.container" (merge (dict "name" "shipper") $container) | indent 6 | trim }}
      restartPolicy: Always
  {{- else }}
  terminationGracePeriodSeconds: 40
  {{- end }}
  containers:
    - {{ include "everlearn.container" $container | indent 6 | trim }}
      {{- if eq .name "gateway" }}
      lifecycle: {preStop: {exec: {command: [sleep, "5"]}}}
      {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "everlearn.name" $root }}-config}
    - name: tasks
      configMap: {name: {{ include "everlearn.name" $root }}-tasks}
    - {name: tmp, emptyDir: {}}
    {{- if not (and (eq .name "gateway") $root.Values.gateway.log.size) }}
    - {name: data, emptyDir: {}}
    {{- end }}
    {{- if $program.shared }}
    - name: shared
      persistentVolumeClaim: {claimName: {{ $root.Values.storage.existingClaim | default (printf "%s-shared" (include "everlearn.name" $root)) }}}
    {{- end }}
    {{- with $settings.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
