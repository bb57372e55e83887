package compile

import "testing"

func TestOrigins(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		yes, no []string
	}{
		{"https://*.bar.com", []string{"https://a.bar.com", "https://a.b.bar.com"},
			[]string{"https://bar.com", "https://.bar.com", "http://a.bar.com", "https://a.bar.com.evil.example", "https://evil.example/.bar.com", "https://a.barxcom", "https://a.bar.com:8443", "https://evil.example:1.bar.com", "https://a@evil.bar.com"}},
		{"https://*.bar.com:8443", []string{"https://a.bar.com:8443"}, []string{"https://a.bar.com", "https://a.bar.com:84431"}},
		{"https://*.bar.com:443", []string{"https://a.bar.com"}, []string{"https://a.bar.com:444"}},
		{"http://*", []string{"http://a", "http://a.b.c", "http://[::1]"}, []string{"https://a", "http://a:8080", "http://"}},
		{"HTTPS://*.Bar.com", []string{"https://a.bar.com", "https://A.bar.COM"}, nil},
	} {
		o, why := origin(tt.pattern)
		if why != nil {
			t.Fatal(why.message)
		}
		for _, s := range tt.yes {
			if !o.Regex.MatchString(s) {
				t.Errorf("%s does not let %s in", tt.pattern, s)
			}
		}
		for _, s := range tt.no {
			if o.Regex.MatchString(s) {
				t.Errorf("%s lets %s in", tt.pattern, s)
			}
		}
	}
}
