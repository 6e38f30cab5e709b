i=0
while [ $i -lt 100 ]
do (i=$((i+1))
echo $i)
x=$(echo $i)
i=$((i+1))
done | md5sum
for i in 1 2 3 4 5 6 7 8
do echo $i | cat | cat | cat
done
f() { if [ $1 -gt 0 ]
then (f $(($1-1)))
fi
echo $1
}
f 15
