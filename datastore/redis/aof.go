package redis

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// After a rewrite the server writes its append-only file without O_APPEND. When the disk is full it cuts a short write
// off again but does not go back, so that its next write leaves zeros between two commands, and the file cannot be
// loaded. The commands are all there: before a start the zeros are made annotations, lines with "#", which a server
// skips.

const (
	// mostUnasked is what is read of append-only files before a start without a reason to suspect them.
	mostUnasked = 256 << 20
	// annotationLine is as long as ours are; servers read up to 1024 bytes.
	annotationLine = 128
	mostAnnotation = 1024
	mostHeader     = 32 // of a command or a word: a letter, a number, and the end of the line
	fillChunk      = 64 << 10
)

// badFormat is what a server says that ends because of such a file.
const badFormat = "Bad file format reading the append only file"

// span is a part of a file.
type span struct{ from, to int64 }

// errForeign says that a file has in it what we do not understand. It is left as it is.
var errForeign = errors.New("not an append-only file of whole commands")

// mendFiles fills the holes in the files that the server is about to load. suspected is whether there may be some;
// without it only so much is read as is quickly read.
func mendFiles(ctx context.Context, data string, suspected bool) error {
	files, size, err := incrementalFiles(filepath.Join(data, aofDir))
	if err != nil || !suspected && size > mostUnasked {
		return err
	}
	for _, path := range files {
		if err := mendFile(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

// incrementalFiles lists the files of commands that the manifest names, those that exist.
func incrementalFiles(dir string) (paths []string, size int64, err error) {
	b, err := os.ReadFile(filepath.Join(dir, aofManifest))
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the manifest of the append-only files: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		// file appendonly.aof.1.incr.aof seq 1 type i
		words := strings.Fields(line)
		if len(words) < 6 || words[0] != "file" || words[5] != "i" || filepath.Base(words[1]) != words[1] {
			continue
		}
		path := filepath.Join(dir, words[1])
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() { // else the server will say so
			paths, size = append(paths, path), size+info.Size()
		}
	}
	return paths, size, nil
}

// mendFile fills the holes of one file, if all else in it is commands.
func mendFile(ctx context.Context, path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0) // the server owns the directory
	if err != nil {
		return fmt.Errorf("look through the append-only file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	holes, err := findHoles(ctx, f)
	if errors.Is(err, errForeign) || err == nil && len(holes) == 0 {
		return nil // what it is, the server will say
	}
	if err != nil {
		return fmt.Errorf("look through the append-only file: %w", err)
	}
	err = fillHoles(f, holes)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return dbaas.WrapError(err, dbaas.Unprocessable,
			"The volume is full, and the database cannot be started before it is larger: resize the volume first.")
	}
	if err != nil {
		return fmt.Errorf("mend the append-only file: %w", err)
	}
	return nil
}

// fillHoles makes holes annotations. It first takes the room for all, so that a full disk leaves them as they were.
func fillHoles(f *os.File, holes []span) error {
	const keepSize = 1
	for _, h := range holes {
		err := syscall.Fallocate(int(f.Fd()), keepSize, h.from, h.to-h.from)
		if err != nil && !errors.Is(err, syscall.EOPNOTSUPP) && !errors.Is(err, syscall.ENOSYS) {
			return err
		}
	}
	for _, h := range holes {
		for h.from < h.to {
			n := h.to - h.from
			if n > fillChunk+annotationLine {
				n = fillChunk // leaves more than a line
			}
			if _, err := f.WriteAt(annotations(int(n)), h.from); err != nil {
				return err
			}
			h.from += n
		}
	}
	return f.Sync()
}

// annotations gives n bytes, two or more, of lines that a server skips.
func annotations(n int) []byte {
	b := make([]byte, 0, n)
	for n > 0 {
		line := min(n, annotationLine)
		if rest := n - line; rest > 0 && rest < 3 {
			line -= 3 // so that the last one has room for its end
		}
		if line == 2 {
			return append(b, "#\n"...)
		}
		b = append(b, bytes.Repeat([]byte{'#'}, line-2)...)
		b = append(b, "\r\n"...)
		n -= line
	}
	return b
}

// findHoles reads a file of commands and gives the parts between them that are zeros, or zeros that we began to fill.
// It is errForeign when there is anything else in it; that the last command is not whole is in order.
func findHoles(ctx context.Context, f io.Reader) ([]span, error) {
	s := scanner{r: bufio.NewReaderSize(f, 1<<20)}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := s.next()
		if errors.Is(err, io.EOF) {
			return s.holes, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// scanner goes through an append-only file.
type scanner struct {
	r     *bufio.Reader
	at    int64
	holes []span
}

// next reads what stands between two commands, or one command. It ends with io.EOF, also amid a command.
func (s *scanner) next() error {
	first, err := s.r.Peek(1)
	if err != nil {
		return err
	}
	switch first[0] {
	case '*':
		return s.command()
	case 0, '#':
		return s.gap()
	}
	return errForeign
}

func (s *scanner) command() error {
	words, err := s.header('*')
	if err == nil && words < 1 {
		err = errForeign
	}
	for ; err == nil && words > 0; words-- {
		err = s.word()
	}
	return err
}

func (s *scanner) word() error {
	size, err := s.header('$')
	if err != nil {
		return err
	}
	for size > 0 {
		n, err := s.r.Discard(int(min(size, 1<<30)))
		s.at += int64(n)
		size -= int64(n)
		if err != nil {
			return err
		}
	}
	end, err := s.r.Peek(2)
	if !bytes.HasPrefix([]byte("\r\n"), end) {
		return errForeign
	}
	return s.skip(len(end), err)
}

// header reads a line such as "*3".
func (s *scanner) header(letter byte) (int64, error) {
	line, err := s.r.Peek(mostHeader)
	if end := bytes.IndexByte(line, '\n'); end >= 0 {
		line, err = line[:end+1], nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	digits, whole := bytes.CutSuffix(line, []byte("\r\n"))
	if err != nil {
		digits = bytes.TrimSuffix(line, []byte("\r")) // the file ends here
	} else if !whole {
		return 0, errForeign
	}
	digits, found := bytes.CutPrefix(digits, []byte{letter})
	if !found && len(line) > 0 {
		return 0, errForeign
	}
	if err != nil && len(digits) == 0 {
		return 0, err
	}
	n, bad := strconv.ParseUint(string(digits), 10, 62)
	if bad != nil {
		return 0, errForeign
	}
	return int64(n), s.skip(len(line), err)
}

func (s *scanner) skip(n int, end error) error {
	n, err := s.r.Discard(n)
	s.at += int64(n)
	if err == nil {
		err = end
	}
	return err
}

// gap reads zeros and lines of nothing but "#", as we write them, in any mixture: a machine may have lost its power
// while we wrote. Where there are no zeros it is an annotation.
func (s *scanner) gap() error {
	from := s.at
	zeros, edge := false, from // edge: where the last zero or line ends
	for {
		b, err := s.r.ReadByte()
		if err != nil {
			if bad := s.note(zeros, from, s.at); bad != nil {
				return bad
			}
			return err
		}
		if b != 0 && b != '#' && b != '\r' && b != '\n' {
			if err := s.r.UnreadByte(); err != nil {
				return err
			}
			break
		}
		s.at++
		if b == 0 || b == '\n' {
			zeros, edge = zeros || b == 0, s.at
		}
		if b == '\n' && !zeros {
			return nil // a whole line in order
		}
	}
	if err := s.note(zeros, from, edge); err != nil || edge == s.at {
		return err
	}
	return s.annotation()
}

// note keeps a hole. One of a single byte has no room for a line.
func (s *scanner) note(zeros bool, from, to int64) error {
	switch {
	case !zeros:
		return nil
	case to-from < 2:
		return errForeign
	}
	s.holes = append(s.holes, span{from, to})
	return nil
}

// annotation reads the rest of a line that began with "#".
func (s *scanner) annotation() error {
	line, err := s.r.Peek(mostAnnotation - 1)
	if end := bytes.IndexByte(line, '\n'); end >= 0 {
		line, err = line[:end+1], nil
	}
	if err == nil && line[len(line)-1] != '\n' || bytes.IndexByte(line, 0) >= 0 {
		return errForeign
	}
	return s.skip(len(line), err)
}
