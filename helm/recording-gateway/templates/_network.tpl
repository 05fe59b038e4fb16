{{/* Where Redis is, as peers of a NetworkPolicy: as it is named, else as its address says. A name of a Service in the same
     namespace, one that ends in …NAMESPACE.svc, and an IP address do; another name does not say where it leads. */}}
{{- define "gateway.redisPeers" -}}
{{- if .Values.networkPolicy.redis -}}
{{- toYaml .Values.networkPolicy.redis -}}
{{- else if or .Values.redis.url .Values.redis.existingSecret -}}
{{- $peers := list -}}
{{- range splitList "," (include "gateway.redisServers" .) -}}
{{- $host := regexReplaceAll ":[0-9]+$" . "" -}}
{{- if regexMatch "^[0-9]+(\\.[0-9]+){3}$" $host -}}
{{- $peers = append $peers (dict "ipBlock" (dict "cidr" (printf "%s/32" $host))) -}}
{{- else if regexMatch "^\\[[0-9a-fA-F:]+\\]$" $host -}}
{{- $peers = append $peers (dict "ipBlock" (dict "cidr" (printf "%s/128" (trimAll "[]" $host)))) -}}
{{- else if regexMatch "^[A-Za-z0-9-]+$" $host -}}
{{- $peers = append $peers (dict "podSelector" dict) -}}
{{- else if regexMatch "^[A-Za-z0-9.-]+\\.svc(\\.|$)" $host -}}
{{- $namespace := last (splitList "." (regexReplaceAll "\\.svc(\\..*)?$" $host "")) -}}
{{- $peers = append $peers (dict "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" $namespace))) -}}
{{- else -}}
{{- fail "networkPolicy.redis: say where Redis is (a peer, such as an ipBlock): its address does not" -}}
{{- end -}}
{{- end -}}
{{- toYaml (uniq $peers) -}}
{{- end -}}
{{- end -}}

{{/* The servers in Redis's URL, without user and password: host:port,host:port */}}
{{- define "gateway.redisServers" -}}
{{- regexFind "^[^/?]*" (last (splitList "@" (last (splitList "://" .Values.redis.url)))) -}}
{{- end -}}
