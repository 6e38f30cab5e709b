ed x <<X
a
line one
line two
.
s/two/2/
w
q
X
cat x
printf 'a\nb\nc\n' > o
printf 'a\nB\nc\n' > n
diff -u o n | tail -n +3 > d
printf -- '--- o\n+++ o\n' | cat - d > dd
patch < dd
cat o
cpio -o -H newc 2>/dev/null <<X | cpio -t 2>/dev/null
o
X
unix2dos o
od -c o
dos2unix o
cat o
ar t nothere
echo $?
logname >/dev/null 2>&1
pidof nothere
echo $?
less /etc/passwd | wc -l
more /etc/passwd | wc -l
nice echo n
nohup echo h 2>/dev/null
setsid echo s
ipcalc -n 10.0.0.5/8
