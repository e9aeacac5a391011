# Shortens the output of "go test -v": of a package that passed, its closing line and the tests that it skipped; of one
# that failed, everything but the names of tests that passed. Skips for want of a program that is installed for the
# tests are written to the file that GROVE_SKIPS names. The last lines tell once more what each failed test said.

function note_skip(name, why,    line) {
	line = "  skipped: " name ": " why "\n"
	skip = skip line
	sub(/^[^ ]*: /, "", why) # the file's name says nothing
	if (tolower(why) ~ /redis|valkey|postgres|rabbitmq|erlang|mkfs|losetup|not installed/) wanted = wanted line
}

/^=== (RUN|PAUSE|CONT|NAME) / { current = $3; next }
/^ *--- PASS: / { next }
/^ *--- FAIL: / { failed = failed "  failed: " $3 "\n" said[$3] }
/^ *--- SKIP: / {
	note_skip($3, reason[$3])
	next
}
/^(ok  |\?   |FAIL)\t/ {
	if ($1 == "FAIL") printf "%s", buffer
	printf "%s", skip
	print
	fflush()
	buffer = skip = ""
	delete reason
	delete said
	next
}
/^PASS$/ || /^coverage:/ { next }
/^        / && current in said { said[current] = said[current] $0 "\n" }
{
	buffer = buffer $0 "\n"
	if ($0 ~ /^ +[A-Za-z0-9_]+\.go:[0-9]+: /) {
		line = $0
		sub(/^ +/, "", line)
		reason[current] = line
		said[current] = said[current] "    " line "\n"
	}
}
END {
	printf "%s", buffer
	printf "%s", failed
	printf "%s", wanted > ENVIRON["GROVE_SKIPS"]
	close(ENVIRON["GROVE_SKIPS"])
}
