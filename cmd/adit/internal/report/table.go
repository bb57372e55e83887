package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// column is one column of a table.
type column struct {
	title string
	right bool // numbers
	// min is how narrow it may be made, in characters. 0 = it keeps its width.
	min int
	// optional columns are left out where there is no room; the highest first.
	optional int
	// prose is never cut: it takes what room is left, and goes below its row
	// where that is not enough. For the last column; min is the room it must have.
	prose bool
}

const (
	gap   = 2
	below = "    " // before prose that has a line of its own
)

// table writes rows in at most width characters a line, 0 for any number. Text
// that is cut shows it by an ellipsis in its middle: names differ at both ends.
func table(w io.Writer, width int, columns []column, rows [][]string) {
	columns, rows = slices.Clone(columns), cloneRows(rows)
	widths := natural(columns, rows)
	for width > 0 && !shrink(columns, widths, width) {
		i := leastNeeded(columns)
		if i < 0 {
			break
		}
		columns = slices.Delete(columns, i, i+1)
		for j := range rows {
			rows[j] = slices.Delete(rows[j], i, i+1)
		}
		widths = natural(columns, rows)
	}
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
	}
	for _, row := range append([][]string{titles}, rows...) {
		writeRow(w, width, columns, widths, row)
	}
}

func cloneRows(rows [][]string) [][]string {
	out := make([][]string, len(rows))
	for i, row := range rows {
		out[i] = slices.Clone(row)
		for j, cell := range row {
			if cell == "" {
				out[i][j] = "-"
			}
		}
	}
	return out
}

func natural(columns []column, rows [][]string) []int {
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = length(c.title)
		for _, row := range rows {
			widths[i] = max(widths[i], length(row[i]))
		}
		if c.prose {
			widths[i] = min(widths[i], c.min)
		}
	}
	return widths
}

// shrink makes the widest column that may be narrower so, until all fit. It
// reports whether they do.
func shrink(columns []column, widths []int, width int) bool {
	for {
		total := gap * (len(widths) - 1)
		widest := -1
		for i, w := range widths {
			total += w
			if columns[i].min > 0 && !columns[i].prose && w > max(columns[i].min, length(columns[i].title)) && (widest < 0 || w > widths[widest]) {
				widest = i
			}
		}
		if total <= width {
			return true
		}
		if widest < 0 {
			return false
		}
		widths[widest]--
	}
}

// leastNeeded is the column to leave out first, -1 if none may be.
func leastNeeded(columns []column) int {
	least := -1
	for i, c := range columns {
		if c.optional > 0 && (least < 0 || c.optional > columns[least].optional) {
			least = i
		}
	}
	return least
}

func writeRow(w io.Writer, width int, columns []column, widths []int, row []string) {
	var line strings.Builder
	used, rest := 0, ""
	for i, cell := range row {
		if i > 0 {
			line.WriteString(strings.Repeat(" ", gap))
			used += gap
		}
		if columns[i].prose {
			if width == 0 || used+length(cell) <= width {
				line.WriteString(cell)
			} else {
				rest = cell
			}
			break
		}
		cell = cut(cell, widths[i])
		pad := strings.Repeat(" ", widths[i]-length(cell))
		if columns[i].right {
			line.WriteString(pad + cell)
		} else {
			line.WriteString(cell + pad)
		}
		used += widths[i]
	}
	fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	if rest != "" {
		paragraph(w, width, below, below, rest)
	}
}

func length(s string) int { return utf8.RuneCountInString(s) }

func cut(s string, width int) string {
	runes := []rune(s)
	if len(runes) <= width {
		return s
	}
	head := (width - 1) / 2
	return string(runes[:head]) + "…" + string(runes[len(runes)-(width-1-head):])
}

// wrap breaks text between words into lines of at most width characters, 0 for
// any number. A longer word keeps a line to itself.
func wrap(text string, width int) []string {
	if width <= 0 {
		return []string{text}
	}
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case length(line)+1+length(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}

// paragraph writes text with a hanging indent.
func paragraph(w io.Writer, width int, first, rest, text string) {
	room := 0
	if width > 0 {
		room = max(width-length(rest), 20)
	}
	for i, line := range wrap(text, room) {
		if i == 0 {
			fmt.Fprintln(w, first+line)
			continue
		}
		fmt.Fprintln(w, rest+line)
	}
}
