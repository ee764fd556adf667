{{/*
The containers of a gateway, and what they share. `run` holds the sockets, `envoy` what is rendered for Envoy, the
provider credentials among it: only `watch`, which renders it, and Envoy have that one.
*/}}

{{- define "llm-gateway.securityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "llm-gateway.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}

{{/* Renders before the others start (they wait for its probe), then takes over changes and drains Envoy. */}}
{{- define "llm-gateway.watch" -}}
name: watch
image: {{ include "llm-gateway.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
restartPolicy: Always
command: [gateway, watch, --config, /etc/gateway/config/gateway.yaml]
env:
  - {name: SSL_CERT_FILE, value: /etc/ssl/certs/ca-certificates.crt}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
startupProbe:
  exec: {command: [test, -e, /var/lib/gateway/run/prepared]}
  periodSeconds: 1
  failureThreshold: 60
resources:
  {{- toYaml .Values.watch.resources | nindent 2 }}
securityContext:
  {{- include "llm-gateway.securityContext" . | nindent 2 }}
volumeMounts:
  {{- include "llm-gateway.mounts" . | nindent 2 }}
  - {name: gateway-envoy, mountPath: /var/lib/gateway/envoy}
  - {name: gateway-config, mountPath: /etc/gateway/config, readOnly: true}
  {{- if fromJson (include "llm-gateway.credentials" .) }}
  - {name: gateway-credentials, mountPath: /etc/gateway/credentials, readOnly: true}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The workers and the settler, kept by one supervisor. */}}
{{- define "llm-gateway.extproc" -}}
name: extproc
image: {{ include "llm-gateway.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
restartPolicy: Always
command: [gateway, extproc, --data-dir, /var/lib/gateway]
env:
  {{- include "llm-gateway.otel" . | nindent 2 }}
startupProbe:
  exec: {command: [python3, -m, control.probe, extproc, /var/lib/gateway]}
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 60
readinessProbe:
  exec: {command: [python3, -m, control.probe, extproc, /var/lib/gateway]}
  periodSeconds: 10
  timeoutSeconds: 10
livenessProbe:
  exec: {command: [python3, -m, control.probe, extproc, /var/lib/gateway]}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 6
resources:
  {{- toYaml .Values.extproc.resources | nindent 2 }}
securityContext:
  {{- include "llm-gateway.securityContext" . | nindent 2 }}
volumeMounts:
  {{- include "llm-gateway.mounts" . | nindent 2 }}
{{- end }}

{{/* Usage, audit, metrics. Not ready is no reason to take the pod out: requests are served without it. */}}
{{- define "llm-gateway.control" -}}
name: control
image: {{ include "llm-gateway.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
restartPolicy: Always
command: [gateway, control, --data-dir, /var/lib/gateway]
env:
  {{- include "llm-gateway.otel" . | nindent 2 }}
startupProbe:
  exec: {command: [python3, -m, control.probe, control, /var/lib/gateway]}
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  exec: {command: [python3, -m, control.probe, control, /var/lib/gateway]}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 6
resources:
  {{- toYaml .Values.control.resources | nindent 2 }}
securityContext:
  {{- include "llm-gateway.securityContext" . | nindent 2 }}
volumeMounts:
  {{- include "llm-gateway.mounts" . | nindent 2 }}
{{- end }}

{{/*
Envoy, from its official image. It starts last and ends first. Told to stop at the edge it first asks `watch` for a drain
by a file, and waits until that is gone; beside an application it serves until that has ended.
*/}}
{{- define "llm-gateway.envoy" -}}
{{- $listen := (fromJson (include "llm-gateway.config" .)).listen -}}
name: envoy
image: {{ .Values.envoy.image.repository }}:{{ .Values.envoy.image.tag }}
imagePullPolicy: {{ .Values.envoy.image.pullPolicy }}
{{- if eq .Values.mode "sidecar" }}
restartPolicy: Always
{{- end }}
command:
  - envoy
  - --config-path
  - /var/lib/gateway/envoy/bootstrap.json
  - --concurrency
  - {{ .Values.envoy.concurrency | quote }}
  - --log-level
  - warning
  - --component-log-level
  - misc:error,main:error
  - --log-format
  - '{"at":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l","process":"envoy","event":"%j","logger":"%n"}'
  - --file-flush-interval-msec
  - "100"
  - --disable-hot-restart
ports:
  - {name: http, containerPort: {{ $listen.port }}}
  - {name: ops, containerPort: {{ $listen.ops.port }}}
{{- if eq .Values.mode "edge" }}
lifecycle:
  preStop:
    exec:
      command:
        - bash
        - -c
        - cd /var/lib/gateway/run && echo {{ .Values.drain.acceptSeconds }} > .drain && mv .drain drain && while [ -e drain ]; do sleep 0.2; done
{{- end }}
startupProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 5
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /livez, port: ops}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
resources:
  {{- toYaml .Values.envoy.resources | nindent 2 }}
securityContext:
  {{- include "llm-gateway.securityContext" . | nindent 2 }}
volumeMounts:
  {{- include "llm-gateway.mounts" . | nindent 2 }}
  - {name: gateway-envoy, mountPath: /var/lib/gateway/envoy, readOnly: true}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "llm-gateway.mounts" -}}
- {name: gateway-data, mountPath: /var/lib/gateway}
- {name: gateway-run, mountPath: /var/lib/gateway/run}
- {name: gateway-tmp, mountPath: /tmp}
{{- end }}

{{- define "llm-gateway.otel" -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ include "llm-gateway.resourceAttributes" . | quote }}
{{- end }}

{{- define "llm-gateway.resourceAttributes" -}}
k8s.pod.name=$(POD_NAME),k8s.namespace.name=$(POD_NAMESPACE)
{{- range $name, $value := .Values.otel.resourceAttributes }},{{ $name }}={{ $value }}{{ end -}}
{{- end }}

{{- define "llm-gateway.volumes" -}}
- name: gateway-config
  configMap: {name: {{ include "llm-gateway.fullname" . }}}
{{- with fromJson (include "llm-gateway.credentials" .) }}
- name: gateway-credentials
  projected:
    defaultMode: 0444
    sources:
      {{- range $provider, $from := . }}
      - secret:
          name: {{ $from.secret }}
          items: [{key: {{ $from.key | quote }}, path: {{ $provider | quote }}}]
      {{- end }}
{{- end }}
- name: gateway-data
  {{- if .Values.persistence.enabled }}
  persistentVolumeClaim: {claimName: {{ default (include "llm-gateway.fullname" .) .Values.persistence.existingClaim }}}
  {{- else }}
  emptyDir: {}
  {{- end }}
- name: gateway-run
  emptyDir: {medium: Memory, sizeLimit: 16Mi}
- name: gateway-envoy
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
- name: gateway-tmp
  emptyDir: {}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* For an application's pod template: `initContainers`, `volumes` and annotations. See README, Kubernetes. */}}
{{- define "llm-gateway.sidecar.initContainers" -}}
{{- if ne .Values.mode "sidecar" }}{{ fail "llm-gateway: set mode: sidecar" }}{{ end -}}
{{- range list "watch" "extproc" "control" "envoy" }}
- {{ include (printf "llm-gateway.%s" .) $ | nindent 2 | trim }}
{{- end }}
{{- end }}

{{- define "llm-gateway.sidecar.volumes" -}}
{{ include "llm-gateway.volumes" . }}
{{- end }}

{{- define "llm-gateway.sidecar.annotations" -}}
llm-gateway/restart-on: {{ include "llm-gateway.fixed" . | quote }}
{{- end }}
