{{/* What holds between several values, where the schema can see only one at a time. */}}
{{- define "gateway.relations" -}}
{{- $redis := list -}}
{{- if .Values.redis.url }}{{ $redis = append $redis "redis.url" }}{{ end -}}
{{- if .Values.redis.existingSecret }}{{ $redis = append $redis "redis.existingSecret" }}{{ end -}}
{{- if .Values.valkey.enabled }}{{ $redis = append $redis "valkey.enabled" }}{{ end -}}
{{- if ne (len $redis) 1 -}}
{{- fail (printf "Redis: give exactly one of redis.url, redis.existingSecret and valkey.enabled; given: %s" (join ", " $redis | default "none")) -}}
{{- end -}}
{{- $credentials := .Values.credentials -}}
{{- if and $credentials.existingSecret $credentials.values -}}
{{- fail "credentials: give existingSecret or values, not both" -}}
{{- end -}}
{{- if not (or $credentials.existingSecret $credentials.values) -}}
{{- fail "credentials: give existingSecret (a Secret with VideoSDK's api-key and secret), or values" -}}
{{- end -}}
{{- if and $credentials.keys (not $credentials.existingSecret) -}}
{{- fail "credentials.keys: names entries of credentials.existingSecret, which is not given" -}}
{{- end -}}
{{- $given := include "gateway.credentials" . | fromYaml -}}
{{- $token := hasKey $given "GATEWAY_VIDEOSDK_TOKEN" -}}
{{- $key := hasKey $given "GATEWAY_VIDEOSDK_API_KEY" -}}
{{- $secret := hasKey $given "GATEWAY_VIDEOSDK_SECRET" -}}
{{- if not (or (and $token (not $key) (not $secret)) (and $key $secret (not $token))) -}}
{{- fail "credentials: expected GATEWAY_VIDEOSDK_API_KEY with GATEWAY_VIDEOSDK_SECRET, or GATEWAY_VIDEOSDK_TOKEN alone" -}}
{{- end -}}
{{- range $variable, $file := .Values.files -}}
{{- $sources := list -}}
{{- range list "text" "existingSecret" "existingConfigMap" }}{{ if get $file . }}{{ $sources = append $sources . }}{{ end }}{{ end -}}
{{- if ne (len $sources) 1 -}}
{{- fail (printf "files.%s: give exactly one of text, existingSecret and existingConfigMap" $variable) -}}
{{- end -}}
{{- if and (not $file.text) (not $file.key) -}}
{{- fail (printf "files.%s: give the key under which %s holds it" $variable (first $sources)) -}}
{{- end -}}
{{- end -}}
{{- $callers := hasKey .Values.files "GATEWAY_CALLERS_FILE" -}}
{{- $settings := .Values.settings -}}
{{- $others := or (hasKey $settings "GATEWAY_JWT_JWKS_URL") (ne (dig "GATEWAY_JOIN_TOKENS" "off" $settings) "off") -}}
{{- if and (not $callers) (not $others) (ne (dig "GATEWAY_AUTH" "callers" $settings) "none") -}}
{{- fail "No caller can get in: give files.GATEWAY_CALLERS_FILE, or settings GATEWAY_JOIN_TOKENS or GATEWAY_JWT_JWKS_URL (or GATEWAY_AUTH: none, for everybody)" -}}
{{- end -}}
{{- if eq (int $settings.GATEWAY_PORT) 0 -}}
{{- fail "settings.GATEWAY_PORT: expected a fixed port, not 0" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) -}}
{{- fail "autoscaling: maxReplicas is less than minReplicas" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.cpuPercent) (not .Values.autoscaling.operationsInFlight) -}}
{{- fail "autoscaling: give cpuPercent, operationsInFlight or both" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts: expected at least one host" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: expected the Gateway that the route belongs to" -}}
{{- end -}}
{{- end -}}
