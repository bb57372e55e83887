{{- define "adit.labels" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: adit
{{- end }}

{{- define "adit.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else if .tag }}:{{ .tag }}{{ end }}
{{- end }}
{{- end }}

{{- /* A binding of the account's own name to a role of that name. */}}
{{- define "adit.subjects" -}}
subjects:
  - kind: ServiceAccount
    name: {{ .name }}
    namespace: {{ .namespace }}
{{- end }}

{{- define "adit.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "adit.monitoring.labels" -}}
{{- include "adit.labels" .name }}
{{- with .root.Values.monitoring.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}
