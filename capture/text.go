package capture

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
)

// String renders the table as a file for nft(8).
func (t table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s {\n", t.tableID)
	for _, s := range t.Sets {
		s.text(&b)
	}
	for i, c := range t.Chains {
		if i > 0 {
			b.WriteString("\n")
		}
		c.text(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

func (c chain) text(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if c.Type != "" {
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.Type, hookName(c.Hook), c.Priority)
	}
	for _, r := range c.Rules {
		fmt.Fprintf(b, "\t\t%s\n", r)
	}
	b.WriteString("\t}\n")
}

// String is the rule in nft's language.
func (r rule) String() string {
	texts := make([]string, len(r))
	for i, s := range r {
		texts[i] = s.text
	}
	return strings.Join(texts, " ")
}

func hookName(h *nftables.ChainHook) string {
	switch *h {
	case *prerouting:
		return "prerouting"
	case *input:
		return "input"
	case *postrouting:
		return "postrouting"
	}
	return "output"
}
