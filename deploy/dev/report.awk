# Shortens the output of "go test -v": of a package that passed, its closing line and the tests that it skipped; of one
# that failed, everything but the names of tests that passed. Skips for want of a program that is installed for the
# tests are written to the file named by the variable "skips".

function note_skip(line) {
	skip = skip line "\n"
	if (tolower(line) ~ /redis|valkey|postgres|rabbitmq|erlang|mkfs|losetup|no .* program|not installed/) wanted = wanted line "\n"
}

/^=== (RUN|PAUSE|CONT|NAME) / { current = $3; next }
/^ *--- PASS: / { next }
/^ *--- SKIP: / {
	name = $3
	note_skip("  skipped: " name ": " reason[name])
	next
}
/^(ok|\?|---|FAIL|panic:)?[ \t]/ && /^(ok  |\?   |FAIL)\t/ {
	if ($1 == "FAIL") printf "%s", buffer
	printf "%s", skip
	print
	fflush()
	buffer = skip = ""
	delete reason
	next
}
/^PASS$/ || /^coverage:/ { next }
/^(#|go: )/ { print; fflush() }
{
	buffer = buffer $0 "\n"
	if ($0 ~ /^ +[A-Za-z0-9_]+\.go:[0-9]+: /) {
		line = $0
		sub(/^ +/, "", line)
		reason[current] = line
	}
}
END {
	printf "%s", buffer
	printf "%s", wanted > skips
	close(skips)
}
