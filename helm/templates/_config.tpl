{{/*
gateway.yaml, from `config`: the keys that are the pod's to decide are put in where they are left open.
*/}}
{{- define "llm-gateway.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if not $config -}}
{{- $config = .Files.Get "files/trial.yaml" | fromYaml -}}
{{- end -}}
{{- $listen := deepCopy (default dict $config.listen) -}}
{{- $host := ternary "127.0.0.1" "0.0.0.0" (eq .Values.mode "sidecar") -}}
{{- $config = set $config "listen" (mergeOverwrite (dict "host" $host "port" 8080 "ops" (dict "port" 8081)) $listen) -}}
{{- $memory := dig "limits" "memory" "" .Values.envoy.resources -}}
{{- if and $memory (not (hasKey $listen "max_memory")) -}}
{{- $_ := set $config.listen "max_memory" $memory -}}
{{- end -}}
{{- $config = set $config "data_dir" "/var/lib/gateway" -}}
{{- $timeouts := default dict $config.timeouts -}}
{{- $config = set $config "timeouts" (merge (dict) $timeouts (dict "drain" (default 600 $timeouts.request))) -}}
{{- $state := default dict $config.state -}}
{{- if and .Values.valkey.enabled (not $state.url) -}}
{{- $config = set $config "state" (merge (dict "url" (printf "redis://%s-valkey:6379" .Release.Name)) $state) -}}
{{- end -}}
{{- $providers := default dict $config.providers -}}
{{- range $name, $_ := fromJson (include "llm-gateway.credentials" .) -}}
{{- if not (hasKey $providers $name) -}}
{{- fail (printf "credentials: config.providers has no %s" $name) -}}
{{- end -}}
{{- $_ := set (index $providers $name) "credential_file" (printf "/etc/gateway/credentials/%s" $name) -}}
{{- end -}}
{{- toJson $config -}}
{{- end }}

{{/* Provider name -> {secret, key}: those that were there, and those that External Secrets makes. */}}
{{- define "llm-gateway.credentials" -}}
{{- $all := deepCopy .Values.credentials -}}
{{- if .Values.externalSecret.enabled -}}
{{- $secret := printf "%s-credentials" (include "llm-gateway.fullname" .) -}}
{{- range $name, $_ := .Values.externalSecret.remote -}}
{{- $all = set $all $name (dict "secret" $secret "key" $name) -}}
{{- end -}}
{{- end -}}
{{- toJson $all -}}
{{- end }}

{{/* What a change of needs new pods for; all else of gateway.yaml is taken over by those that run. */}}
{{- define "llm-gateway.fixed" -}}
{{- $config := fromJson (include "llm-gateway.config" .) -}}
{{- $listen := pick $config.listen "host" "port" "unix_socket" "unix_socket_mode" "ops" "max_memory" -}}
{{- pick $config "data_dir" "workers" "state" "streams" "transport" | merge (dict "listen" $listen) | toJson | sha256sum -}}
{{- end }}

{{/*
TCP ports that the pods call, as a JSON array: those set, or those of the URLs in `config`. Of a URL only what stands
between `://` and the path is looked at: hosts by commas (Sentinels), after the last `@`, each with a port or its
scheme's. Behind a Sentinel there is a Redis at a place of its own.
*/}}
{{- define "llm-gateway.egressPorts" -}}
{{- if .Values.networkPolicy.egressPorts -}}
{{- toJson .Values.networkPolicy.egressPorts -}}
{{- else -}}
{{- $config := omit (fromJson (include "llm-gateway.config" .)) "cors" -}}
{{- $usual := dict "http" 80 "https" 443 "redis" 6379 "rediss" 6379 "postgresql" 5432 -}}
{{- $ports := list 443 -}}
{{- range regexFindAll "[a-z+]+://[^\"/?]+" (toJson $config) -1 -}}
{{- $usually := get $usual (regexFind "^[a-z]+" .) -}}
{{- if contains "+sentinel:" . -}}
{{- $usually = 26379 -}}
{{- $ports = append $ports 6379 -}}
{{- end -}}
{{- range splitList "," (regexReplaceAll "^.*(://|@)" . "") -}}
{{- $port := regexFind ":[0-9]+$" . | trimPrefix ":" -}}
{{- $ports = append $ports (int (default $usually $port)) -}}
{{- end -}}
{{- end -}}
{{- if contains "${" (default "" (default dict $config.audit).url) -}}{{- $ports = append $ports 5432 -}}{{- end -}}
{{- toJson (uniq $ports) -}}
{{- end -}}
{{- end }}

{{/* `2s`, `1500ms`, `24h`, `90d` or a number of seconds -> whole seconds, rounded up. */}}
{{- define "llm-gateway.seconds" -}}
{{- $text := toString . -}}
{{- if regexMatch "^[0-9.]+$" $text -}}
{{- ceil (float64 $text) | int64 -}}
{{- else -}}
{{- $number := regexFind "^[0-9.]+" $text | float64 -}}
{{- $unit := regexFind "[a-z]+$" $text -}}
{{- $second := get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0) $unit -}}
{{- ceil (mulf $number $second) | int64 -}}
{{- end -}}
{{- end }}

{{/* The longest stream, the seconds before the listener is closed, and those that the last rows are settled in. */}}
{{- define "llm-gateway.gracePeriod" -}}
{{- if .Values.terminationGracePeriodSeconds -}}
{{- .Values.terminationGracePeriodSeconds | int64 -}}
{{- else -}}
{{- $config := fromJson (include "llm-gateway.config" .) -}}
{{- $drain := include "llm-gateway.seconds" $config.timeouts.drain | int64 -}}
{{- add $drain (int64 .Values.drain.acceptSeconds) 30 -}}
{{- end -}}
{{- end }}
