echo one > a
cp a b
mv b c
cat a c
mkdir d
cp a c d
ls d
cp -a d e
ls e
mv d/a d/z
rm d/c
rmdir d
echo $?
rm -r d
ls
rm missing
echo $?
rm -f missing
echo $?
cp missing x
echo $?
mkdir e
echo $?
ln -s a s
ls -l s | sed 's/.*s ->/s ->/'
cat s
rm s
touch -d '2020-01-02 03:04:05' t
stat -c %Y t
ls -l t | awk '{print $1,$5}'
chmod 600 t
stat -c %a t
cp -p t u
stat -c '%a %Y' u
install -m 700 t v
stat -c %a v
truncate -s 1000 w
stat -c %s w
dd if=w bs=100 count=2 2>/dev/null | wc -c
basename /a/b.c .c
dirname /a/b.c
mktemp -u x.XXXXXX | wc -c
test -d e && echo dir
[ -x v ] && echo x
[ a -nt t ] && echo newer
ls -a
