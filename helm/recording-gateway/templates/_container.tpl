{{/* Entry of the credentials' Secret by variable. */}}
{{- define "gateway.credentials" -}}
{{- if .Values.credentials.existingSecret -}}
{{- .Values.credentials.keys | default (dict "GATEWAY_VIDEOSDK_API_KEY" "api-key" "GATEWAY_VIDEOSDK_SECRET" "secret") | toYaml -}}
{{- else -}}
{{- range $variable, $_ := .Values.credentials.values }}
{{ $variable }}: {{ $variable }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Seconds from the request to end until the last thing that was sent cannot land any more, with some to spare. */}}
{{- define "gateway.grace" -}}
{{- $set := .Values.settings -}}
{{- $quiet := addf $set.GATEWAY_SEND_WINDOW_SECONDS $set.GATEWAY_UPSTREAM_TIMEOUT_SECONDS $set.GATEWAY_SETTLE_SECONDS -}}
{{- $drain := dig "GATEWAY_DRAIN_SECONDS" 0 $set -}}
{{- add .Values.preStopSeconds (ceil $drain) (ceil $set.GATEWAY_REQUEST_DEADLINE_SECONDS) 1 (ceil $quiet) 5 -}}
{{- end -}}

{{/* Name of the volume of a file: callers-file for GATEWAY_CALLERS_FILE. */}}
{{- define "gateway.volume" -}}
{{- trimPrefix "GATEWAY_" . | lower | replace "_" "-" -}}
{{- end -}}

{{/* The settings stand in the pod and not in a ConfigMap: a pod of the old revision that restarts during a rollout keeps
     the old ones, and a rollback brings them back. */}}
{{- define "gateway.env" -}}
{{- range $variable, $value := .Values.settings }}
- name: {{ $variable }}
  value: {{ include "gateway.text" $value | quote }}
{{- end }}
- name: GATEWAY_REDIS_URL_FILE
  value: /run/secrets/redis/url
{{- range $variable, $_ := include "gateway.credentials" . | fromYaml }}
- name: {{ $variable }}_FILE
  value: /run/secrets/gateway/{{ $variable }}
{{- end }}
{{- range $variable, $_ := .Values.files }}
- name: {{ $variable }}
  value: /etc/gateway/{{ include "gateway.volume" $variable }}/{{ $variable }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Whole directories: what is mounted by `subPath` is never replaced. */}}
{{- define "gateway.mounts" -}}
- name: tmp
  mountPath: /tmp
- name: credentials
  mountPath: /run/secrets/gateway
  readOnly: true
- name: redis
  mountPath: /run/secrets/redis
  readOnly: true
{{- range $variable, $_ := .Values.files }}
- name: {{ include "gateway.volume" $variable }}
  mountPath: /etc/gateway/{{ include "gateway.volume" $variable }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "gateway.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.tmpSizeLimit }}
- name: credentials
  secret:
    secretName: {{ .Values.credentials.existingSecret | default (printf "%s-credentials" (include "gateway.fullname" .)) }}
    defaultMode: 0440
    items:
    {{- range $variable, $entry := include "gateway.credentials" . | fromYaml }}
      - key: {{ $entry }}
        path: {{ $variable }}
    {{- end }}
- name: redis
  secret:
    secretName: {{ .Values.redis.existingSecret | default (printf "%s-%s" (include "gateway.fullname" .) (ternary "valkey" "redis" .Values.valkey.enabled)) }}
    defaultMode: 0440
    items:
      - key: {{ ternary .Values.redis.existingSecretKey "url" (ne .Values.redis.existingSecret "") }}
        path: url
{{- range $variable, $file := .Values.files }}
- name: {{ include "gateway.volume" $variable }}
  {{- if $file.existingConfigMap }}
  configMap:
    name: {{ $file.existingConfigMap }}
  {{- else }}
  secret:
    secretName: {{ $file.existingSecret | default (printf "%s-files" (include "gateway.fullname" $)) }}
  {{- end }}
    defaultMode: 0440
    items:
      - key: {{ ternary $variable $file.key (hasKey $file "text") }}
        path: {{ $variable }}
{{- end }}
{{- end -}}

{{- define "gateway.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.runAsUser }}
runAsGroup: {{ .Values.runAsUser }}
fsGroup: {{ .Values.runAsUser }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "gateway.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
