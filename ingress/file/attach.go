package file

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// filesAnnotation names files whose contents are keys of a Secret's or a
// ConfigMap's data: "tls.crt=PATH,tls.key=PATH". Paths are relative to the
// directory that the manifest is in.
const filesAnnotation = "adit-mesh.github.io/files"

// maxAttached bounds one such file, as an API server bounds a Secret.
const maxAttached = 1 << 20

// attachments are the files that objects name.
type attachments struct {
	dir string
	// last is what was good for each object, so that a certificate which is half
	// replaced, or a file that is gone for a moment, takes nothing down.
	last map[key]map[string][]byte
}

// attach returns d's object with what its files contain, the paths of these
// files, and what is wrong. The object is d's own if it names none.
func (a *attachments) attach(d decoded) (o object, paths []string, bad []Problem) {
	text := d.object.GetAnnotations()[filesAnnotation]
	if text == "" {
		delete(a.last, d.key)
		return d.object, nil, nil
	}
	say := func(format string, args ...any) {
		bad = append(bad, Problem{
			File: d.at.file, Document: d.at.document, Line: d.at.line, Object: d.key.String(),
			Field: "metadata.annotations." + filesAnnotation, Message: fmt.Sprintf(format, args...),
		})
	}
	data := make(map[string][]byte)
	complete := true
	for part := range strings.SplitSeq(text, ",") {
		name, path, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "" || path == "" {
			say("%q is not of the form key=path", part)
			complete = false
			continue
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(a.dir, path)
		}
		paths = append(paths, path)
		content, err := load(path)
		switch {
		case err == nil && len(content) > maxAttached:
			err = fmt.Errorf("it has more than %d bytes", maxAttached)
			fallthrough
		case err != nil:
			if inner := errors.Unwrap(err); inner != nil {
				err = inner
			}
			say("%s, for %s: %v", path, name, err)
			complete = false
		default:
			data[name] = content
		}
	}
	if complete && data[corev1.TLSCertKey] != nil && data[corev1.TLSPrivateKeyKey] != nil {
		if _, err := tls.X509KeyPair(data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey]); err != nil {
			say("certificate and key do not belong together: %v", err)
			complete = false
		}
	}
	if last := a.last[d.key]; !complete && last != nil {
		bad[len(bad)-1].Message += "; what was there before stays in force"
		data = last
	}
	if complete {
		a.last[d.key] = data
	}
	return withData(d.object, data), paths, bad
}

// forget drops what belongs to objects that are gone.
func (a *attachments) forget(there map[key]decoded) {
	maps.DeleteFunc(a.last, func(k key, _ map[string][]byte) bool { _, ok := there[k]; return !ok })
}

func withData(o object, data map[string][]byte) object {
	switch o := o.DeepCopyObject().(type) {
	case *corev1.Secret:
		if o.Data == nil {
			o.Data = make(map[string][]byte, len(data))
		}
		maps.Copy(o.Data, data)
		if o.Type == corev1.SecretTypeOpaque && data[corev1.TLSCertKey] != nil && data[corev1.TLSPrivateKeyKey] != nil {
			o.Type = corev1.SecretTypeTLS
		}
		return o
	case *corev1.ConfigMap:
		if o.Data == nil {
			o.Data = make(map[string]string, len(data))
		}
		for _, name := range slices.Sorted(maps.Keys(data)) {
			o.Data[name] = string(data[name])
		}
		return o
	}
	return o
}
