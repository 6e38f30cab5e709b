awk 'BEGIN { FS=":" } { n[$7]++ } END { for (s in n) print s, n[s] }' /etc/passwd | sort
awk '{ s += $1
t = t " " $1 } END { print s, length(t), NR
printf "%.10g %e %05d %x\n", s/7, s, 42, 255 }' <<X
1
2.5
1e3
X
awk 'BEGIN { while (("seq 1 5" | getline x) > 0) print "got", x
close("seq 1 5")
print "to pipe" | "cat"
print sin(1), cos(1), exp(1), log(2), sqrt(2), int(-3.7), 2**10, substr("hello", 2, 3), index("abc","c"), toupper("q"), split("a b c", z), z[2]
gsub("a","b")
exit 3 }'
