mkdir d
seq 1 1000 > d/n
echo x > d/x
ln -s x d/l
ln d/x d/h
chmod 755 d/x
tar -cf t.tar --numeric-owner d 2>&1
tar -tf t.tar | sort
mkdir o
tar -xf t.tar -C o
ls o/d
cmp d/n o/d/n
readlink o/d/l
stat -c '%a %h %F %s' o/d/x
tar -czf t.tgz d
tar -tzf t.tgz | wc -l
cat t.tar | tar -xO -f - d/n | md5sum
tar -cjf t.tbz d
tar -xjOf t.tbz d/x
tar xf missing
echo $?
rm t.tar t.tgz t.tbz
