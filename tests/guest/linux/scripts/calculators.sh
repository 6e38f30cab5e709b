echo '2^64
10/3
scale=20
10/3
sqrt(2)
for (i=0;i<5;i++) i*i
obase=16
255' | bc
echo '5 3 + p 2 100 ^ p 10 k 2 v p' | dc
echo 'define f(x) { if (x<2) return 1
return x*f(x-1)
} f(50)' | bc
echo '4*a(1)' | bc -l
echo '1/0' | bc 2>/dev/null
echo $?
