package output

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// table draws a list in a frame, as openstackclient does, folded to the writer's width where words allow it.
func (w Writer) table(l List) error {
	rows := [][]string{nil}
	for _, name := range l.Columns {
		rows[0] = append(rows[0], harmless(name))
	}
	for _, row := range l.Rows {
		rows = append(rows, texts(row))
	}
	widths := fit(rows, w.Width)
	var b strings.Builder
	rule(&b, widths)
	for i, row := range rows {
		drawRow(&b, row, widths)
		if i == 0 {
			rule(&b, widths)
		}
	}
	if len(rows) > 1 {
		rule(&b, widths)
	}
	_, err := io.WriteString(w.W, b.String())
	return err
}

func rule(b *strings.Builder, widths []int) {
	for _, n := range widths {
		b.WriteString("+" + strings.Repeat("-", n+2))
	}
	b.WriteString("+\n")
}

func drawRow(b *strings.Builder, row []string, widths []int) {
	folded := make([][]string, len(row))
	height := 1
	for i, cell := range row {
		folded[i] = fold(cell, widths[i])
		height = max(height, len(folded[i]))
	}
	for line := range height {
		for i := range row {
			var text string
			if line < len(folded[i]) {
				text = folded[i][line]
			}
			fmt.Fprintf(b, "| %s%s ", text, strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(text))))
		}
		b.WriteString("|\n")
	}
}

// fit gives the widths of the columns. Where all together are wider than total (0: no bound), the widest is folded at
// its spaces, again and again, until it fits or no word can be moved to a line of its own any more.
func fit(rows [][]string, total int) []int {
	columns := len(rows[0])
	widths, least := make([]int, columns), make([]int, columns)
	for _, row := range rows {
		for i, cell := range row {
			for line := range strings.SplitSeq(cell, "\n") {
				widths[i] = max(widths[i], utf8.RuneCountInString(line))
			}
			for _, word := range strings.Fields(cell) {
				least[i] = max(least[i], utf8.RuneCountInString(word))
			}
		}
	}
	for total > 0 && sum(widths)+3*columns+1 > total {
		widest := -1
		for i := range widths {
			if widths[i] > least[i] && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	return widths
}

func sum(numbers []int) int {
	total := 0
	for _, n := range numbers {
		total += n
	}
	return total
}

// fold breaks a cell into lines of at most width, at spaces; its own line breaks stay.
func fold(cell string, width int) []string {
	var lines []string
	for line := range strings.SplitSeq(cell, "\n") {
		for utf8.RuneCountInString(line) > width {
			runes := []rune(line)
			at := strings.LastIndex(string(runes[:width+1]), " ")
			if at <= 0 {
				break
			}
			lines = append(lines, line[:at])
			line = line[at+1:]
		}
		lines = append(lines, line)
	}
	return lines
}
